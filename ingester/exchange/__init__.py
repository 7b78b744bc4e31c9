"""What Binance says, and who says it."""
