"""check.py: all checks are carried out, and none keeps the others from being told."""

import threading

from ingester.monitoring.doctor import Check, Finding, examine


def test_findings_come_in_the_order_of_the_checks_whatever_happens_in_one():
    release = threading.Event()

    def hangs():
        yield Finding("disk", "ok", "found before")
        release.wait(60)

    def breaks():
        raise RuntimeError("unexpected")
        yield

    def works():
        yield Finding("memory", "ok", "enough")

    found = examine([Check("disk", hangs), Check("java", breaks), Check("memory", works)], patience=0.5)
    release.set()
    assert [(finding.subject, finding.state) for finding in found] == [
        ("disk", "ok"),
        ("disk", "fail"),
        ("java", "fail"),
        ("memory", "ok"),
    ]
    assert "0 s" in found[1].text
    assert "unexpected" in found[2].text
