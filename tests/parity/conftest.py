"""Prints the largest error of each comparison at the end of a run."""

ERRORS = {}


def pytest_terminal_summary(terminalreporter):
    if ERRORS:
        terminalreporter.section("parity with the published code: largest errors")
        for name, error in ERRORS.items():
            terminalreporter.line(f"{error:.2e}  {name}")
