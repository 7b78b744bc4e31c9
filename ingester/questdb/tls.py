"""TLS to a QuestDB: whom to trust, and what a refused certificate means in words."""

import ssl

import urllib3

from ingester.errors import SettingsError, Untrusted
from ingester.questdb.endpoint import Endpoint

EXPIRED, NOT_YET_VALID, OTHER_NAME, OTHER_ADDRESS = 10, 9, 62, 64
UNKNOWN_ISSUER = (18, 19, 20, 21)
"""X509_V_ERR_… of OpenSSL, in `ssl.SSLCertVerificationError.verify_code`."""
NO_TLS = (
    "WRONG_VERSION_NUMBER",
    "RECORD_LAYER_FAILURE",
    "UNKNOWN_PROTOCOL",
    "HTTP_REQUEST",
    "UNEXPECTED_EOF_WHILE_READING",
)


def context(endpoint: Endpoint) -> ssl.SSLContext | None:
    """What decides whether an https server is trusted. Raises SettingsError on a CA file that cannot be used."""
    path = endpoint.ca_file
    if not endpoint.is_encrypted:
        if path is not None:
            raise SettingsError(f"--questdb-ca {path} is of no use with {endpoint.http_url}: write https:// there.")
        return None
    try:
        return ssl.create_default_context(cafile=str(path) if path else None)
    except ssl.SSLError:
        raise SettingsError(
            f"--questdb-ca {path} holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)."
        ) from None
    except OSError as error:
        raise SettingsError(f"--questdb-ca {path} cannot be read: {error.strerror}.") from None


def refusal(endpoint: Endpoint, error: urllib3.exceptions.SSLError) -> Untrusted:
    """The error in a sentence, with the next step."""
    cause = error.args[0] if error.args and isinstance(error.args[0], Exception) else error
    return Untrusted(f"QuestDB at {endpoint.http_url} {_reason(endpoint, cause)}")


def _reason(endpoint: Endpoint, cause: Exception) -> str:
    if not isinstance(cause, ssl.SSLCertVerificationError):
        if isinstance(cause, ssl.SSLError) and cause.reason in NO_TLS:
            return "does not seem to speak TLS at this port. Write http:// there, or the port that has TLS."
        return f"cannot be spoken to over TLS: {cause}"
    code, words = cause.verify_code, cause.verify_message
    if code == EXPIRED:
        return "shows a certificate that has expired. Renew it at the server, and look at this machine's clock."
    if code == NOT_YET_VALID:
        return "shows a certificate that is not valid yet. Look at this machine's clock, and at the certificate."
    if code in (OTHER_NAME, OTHER_ADDRESS):
        return f"shows a certificate of another name ({words}). Write the host in --questdb as the certificate has it."
    if code in UNKNOWN_ISSUER:
        if endpoint.ca_file is None:
            return (
                f"shows a certificate by an issuer that this machine does not know ({words}). "
                "Give the file with the issuer's certificate: --questdb-ca FILE."
            )
        return (
            f"shows a certificate by none of the issuers in {endpoint.ca_file} ({words}). "
            "Give the file with the certificate of its issuer: --questdb-ca FILE."
        )
    return f"shows a certificate that is not accepted: {words}."
