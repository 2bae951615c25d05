"""Command line of stage one: `python -m extract`, and `python -m extract summary`."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from base.command_line import CommandFailed, run_app
from base.terminal import NUM_LISTED, Console, format_bytes, format_count, format_list, format_seconds, import_quietly
from extract.config import ExtractConfig, SummaryConfig, parse_part

NUM_ROWS = 20
"""Largest number of classes, reasons or unusable pictures in a table."""


def extract(config: ExtractConfig, console: Console) -> Mapping[str, Any]:
    """Run the frozen backbone once over every new picture and store the features.

    Examples:
        headstart extract --images pictures --store work/store
        headstart extract --images pictures --store work/accurate --preset accurate
        headstart extract --images pictures --labels labels.csv --store work/store --dry-run
        headstart extract summary
    """
    from extract.engines.choose import check_options

    check_options(config.engine, config.precision)
    parse_part(config.part)
    if config.dry_run:
        return _show_estimate(config, console)
    from extract.result import warn_about_unusable
    from extract.run import extract_features

    result = extract_features(config, console)
    if result.failed:
        rows = [(failed["image"], failed["reason"]) for failed in result.failed[:NUM_ROWS]]
        num_more = len(result.failed) - len(rows)
        console.show_table("unusable pictures", rows + [(f"and {num_more:,} more", "")] * (num_more > 0))
    for failed in result.failed[NUM_ROWS:]:
        console.debug(f"unusable {failed['image']}: {failed['reason']}")
    warn_about_unusable(result, console)
    for skipped in result.skipped:
        console.debug(f"skipped {skipped['path']}: {skipped['reason']}")
    is_done = not result.computed and not result.failed
    num_bytes = sum(path.stat().st_size for path in config.store.rglob("*") if path.is_file())
    fingerprint = "fingerprint of {}" if len(result.fingerprints) > 1 else "fingerprint"
    rate = f", {result.images_per_second:.1f} pictures/s" if result.computed else ""
    rows = [
        ("part", result.part),
        ("pictures", f"{result.images:,}"),
        ("computed", f"{result.computed:,}" + " (nothing to do: the store is up to date)" * is_done),
        ("already stored", f"{result.reused:,}"),
        ("duplicates", f"{result.duplicates:,}, byte for byte" if result.duplicates else ""),
        ("failed", f"{len(result.failed):,}"),
        ("excluded from training", f"{result.unsound:,} with NaN or overflow" if result.unsound else ""),
        ("removed from the store", f"{result.removed:,}" if result.removed else ""),
        ("labels changed", f"{result.relabeled:,}" if result.relabeled else ""),
        ("skipped files", f"{len(result.skipped):,}"),
        *_list_reasons(result.skipped),
        ("ignored system files", _count_ignored(result.ignored)),
        ("on disk", format_bytes(num_bytes)),
        ("time", f"{format_seconds(result.seconds)} in all" + rate),
        ("weights", result.weights),
        *((fingerprint.format(cut), digest[:16]) for cut, digest in result.fingerprints.items()),
    ]
    console.show_table(f"features in {config.store}", [row for row in rows if row[1]])
    if result.error:
        raise CommandFailed(result.to_json(), result.error)
    return result.to_json()


def summary(config: SummaryConfig, console: Console) -> Mapping[str, Any]:
    """Print the layers of InceptionV3 and mark the cut.

    Examples:
        headstart extract summary --cut mixed5
    """
    from extract.backbone import build_backbone, check_backbone_arguments, summarise_layers

    check_backbone_arguments([config.cut], config.image_size)
    import_quietly("keras")
    layers = summarise_layers(build_backbone(config.image_size, None), config.cut)
    shape = next(layer["output_shape"] for layer in layers if layer["name"] == config.cut)
    before = sum(layer["num_parameters"] for layer in layers if layer["in_prefix"])
    after = sum(layer["num_parameters"] for layer in layers) - before
    rows = []
    for layer in layers:
        mark = "<== cut" if layer["name"] == config.cut else "" if layer["in_prefix"] else "not used"
        rows.append((layer["name"], layer["kind"], layer["output_shape"], f"{layer['num_parameters']:,}", mark))
    console.show_table(f"InceptionV3 at {config.image_size} px, every layer frozen", rows)
    cut = [("layer", config.cut), ("output shape", shape), ("parameters up to the cut", f"{before:,}")]
    console.show_table("cut", [*cut, ("parameters after the cut", f"{after:,}")])
    found = {"cut": config.cut, "output_shape": list(shape), "layers": layers}
    return found | {"parameters_before": before, "parameters_after": after}


def _show_estimate(config: ExtractConfig, console: Console) -> Mapping[str, Any]:
    from extract.estimate import estimate_run

    found = estimate_run(config, console)
    size = found["estimated_bytes"]
    rows = [row for split, counts in sorted(found["classes"].items()) for row in _list_classes(split, counts)]
    rows += [
        ("skipped files", f"{len(found['skipped']):,}" if found["skipped"] else ""),
        *_list_reasons(found["skipped"]),
        ("ignored system files", _count_ignored(found["ignored"])),
        ("part", f"{found['part']}, with {format_count(found['images'], 'picture')}" if found["part"] else ""),
        ("to compute (at most)", f"{found['to_read']:,}"),
        ("already stored", f"{found['reused']:,}"),
        ("size on disk (estimate)", "not known for this cut layer" if size is None else format_bytes(size)),
        ("time (estimate)", _describe_time(found["estimated_seconds"], found["images_per_second"])),
    ]
    console.show_table("dry run: nothing is written", [row for row in rows if row[1]])
    return found


def _list_classes(split: str, counts: Mapping[str, int]) -> list[tuple[str, str]]:
    """List the number of pictures of each class; of many classes, the smallest and the largest."""
    prefix = f"{split}/" if split else ""
    ordered = sorted(counts, key=lambda label: (counts[label], label))
    if len(ordered) <= NUM_ROWS:
        return [(f"{prefix}{label}", f"{counts[label]:,}") for label in sorted(ordered)]
    shown = [*ordered[:NUM_LISTED], *ordered[-NUM_LISTED:]]
    rows = [(f"{prefix}{label}", f"{counts[label]:,}") for label in shown]
    num_others = len(ordered) - len(shown)
    rows.insert(NUM_LISTED, (f"{prefix}{num_others:,} more classes", f"{sum(counts.values()):,} in all"))
    return rows


def _list_reasons(skipped: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """List the numbers of skipped files by reason, and the numbers of pictures in skipped folders."""
    counts, pictures = Counter[str](), Counter[str]()
    for file in skipped:
        counts[file["reason"]] += 1
        pictures[file["reason"]] += file["num_pictures"]
    rows, num_others = [], counts.total()
    for reason, count in counts.most_common(NUM_ROWS):
        inside = f", with {format_count(pictures[reason], 'picture')}" if pictures[reason] else ""
        rows.append(("", f"{reason}: {count:,}{inside}"))
        num_others -= count
    return rows + ([("", f"other reasons: {num_others:,}")] if num_others else [])


def _count_ignored(ignored: Mapping[str, int]) -> str:
    names = format_list([f"{name} {count:,}" for name, count in ignored.items()])
    return f"{sum(ignored.values()):,} ({names})" if ignored else ""


def _describe_time(seconds: float | None, rate: float | None) -> str:
    if seconds is None:
        return "not known before the first run"
    return f"{format_seconds(seconds)} at {rate}/s"


def main(name: str) -> None:
    """Run the command, shown as `name` in its help, and end the process."""
    if sys.argv[1:2] == ["summary"]:
        del sys.argv[1]
        run_app(summary, SummaryConfig, f"{name} summary")
    else:
        run_app(extract, ExtractConfig, name)


if __name__ == "__main__":
    main("python -m extract")
