"""Command line of `headstart doctor`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial, update_wrapper
from typing import TYPE_CHECKING, Any

from headstart.doctor.findings import Finding, Status, run_check

if TYPE_CHECKING:
    from base.terminal import Console

Check = Callable[[], Iterable[Finding]]
TRIAL = "trial on 16 generated pictures"


@dataclass(frozen=True)
class DoctorConfig:
    """Options of `doctor`; it has none of its own."""


def list_checks(backend: str = "") -> dict[str, dict[str, Check]]:
    """List the checks of each topic, except the trial.

    Args:
        backend: value of KERAS_BACKEND before Headstart changed it.
    """
    from headstart.doctor.computer import check_memory, check_processor
    from headstart.doctor.environment import check_configuration, check_environment
    from headstart.doctor.folders import check_folders
    from headstart.doctor.versions import check_extras, check_versions
    from headstart.doctor.weights import check_weights

    return {
        "versions": {"versions": check_versions, "extras": check_extras},
        "environment": {"environment": partial(check_environment, backend), "configuration": check_configuration},
        "computer": {"processor": check_processor, "memory": check_memory},
        "weights": {"weights": check_weights},
        "folders": {"folders": check_folders},
    }


def doctor(config: DoctorConfig, console: Console, backend: str = "") -> Mapping[str, Any]:
    """Check the installation, the computer and the network, and run all stages on generated pictures.

    The output has no personal data: paste it into a report of a bug.

    Examples:
        headstart doctor
        headstart doctor --json
    """
    from headstart.doctor.trial import open_trial

    console.info(f"checking the installation; the {TRIAL} takes about 15 s")
    with ExitStack() as stack:
        # The trial runs while the other checks wait for the network.
        try:
            trial: Check = stack.enter_context(open_trial())
        except OSError as error:
            trial = partial(_raise, error)
        return examine(console, {**list_checks(backend), TRIAL: {"trial": trial}})


def examine(console: Console, checks: Mapping[str, Mapping[str, Check]]) -> dict[str, Any]:
    """Run the checks, print a table for each topic, and return the findings.

    Raises:
        CommandFailed: something is a problem.
    """
    from base.command_line import CommandFailed
    from base.terminal import format_count
    from headstart.doctor.redaction import build_redactor

    started, redactor = time.monotonic(), build_redactor()
    findings: list[dict[str, str]] = []
    for topic, group in checks.items():
        found = [redactor.redact_finding(each) for name, check in group.items() for each in run_check(name, check)]
        if found:
            console.show_table(topic, [(each.status, each.name, _join(each)) for each in found])
        findings += [{"topic": topic, **asdict(each)} for each in found]
    problems = [each for each in findings if each["status"] == Status.PROBLEM]
    result = {"ok": not problems, "findings": findings, "seconds": round(time.monotonic() - started, 1)}
    if problems:
        listed = "; ".join(f"{each['name']}: {each['value']}. {each['advice']}" for each in problems)
        raise CommandFailed(result, f"{format_count(len(problems), 'problem')}: {listed}")
    console.info("no problems")
    return result


def _join(finding: Finding) -> str:
    return f"{finding.value}. {finding.advice}." if finding.advice else finding.value


def _raise(error: Exception) -> Iterable[Finding]:
    raise error


def main(name: str) -> None:
    """Run the command under the given program name and exit."""
    try:
        from base.command_line import run_app
    except ImportError as error:
        # Without the packages of the command line, no command can start.
        print(f"error: headstart: expected its packages, got {error}. Install Headstart again.", file=sys.stderr)
        sys.exit(1)
    # Commands set this variable before they start.
    function = partial(doctor, backend=os.environ.get("KERAS_BACKEND", ""))
    run_app(update_wrapper(function, doctor), DoctorConfig, name)


if __name__ == "__main__":
    main("python -m headstart.doctor")
