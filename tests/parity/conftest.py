"""Prints the largest error of each comparison at the end of a run, in however many processes it was."""

import pytest

ERRORS = {}
"""Of the test that is running."""


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    if call.when == "call":
        outcome.get_result().user_properties += [("parity", error) for error in ERRORS.items()]
        ERRORS.clear()


def pytest_terminal_summary(terminalreporter):
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    found = [
        value for report in reports for name, value in getattr(report, "user_properties", ()) if name == "parity"
    ]
    if found:
        terminalreporter.section("parity with the published code: largest errors")
        for name, error in sorted(found):
            terminalreporter.line(f"{error:.2e}  {name}")
