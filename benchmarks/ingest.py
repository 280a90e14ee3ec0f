"""How fast real clips come into a motion database: decoding against plain FFmpeg, the whole ingest, and its memory.

Decoding compares three ways, in turn on each clip so that drift of the machine touches all alike:

    ours        `read_clip`: open the file, find the stretch's frames, decode and convert the 16 that are wanted
    cli         the `ffmpeg` of PATH decodes the same stretch to nowhere; a process each time, so its start-up (timed
                on a video of one frame, every few clips) is in the figure, and also taken off in a ratio of its own
    in process  PyAV, FFmpeg's libraries in this process: open the file, seek, decode every frame of the stretch

The bar: ours takes at most 1.3 times as long as either. Ingest is the command line, `motionrag ingest`, in a process
of its own each time: alone with 1 and 2 decoding workers, again with nothing left to do, and twice at once into one
database. Encoders have random weights: "tiny" ones (width 192, 4 layers) and the published sizes (VideoMAE base,
DINOv2 large, 25 tokens each). Peak memory is Linux's VmHWM; getrusage counts a parent's into its child's. Example:

    python benchmarks/ingest.py --out benchmarks/results/ingest.json
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import av
import numpy as np

from motionrag.retrieval.sources import Job, read_jobs
from motionrag.retrieval.store import MotionDatabase
from motionrag.video import content_hash, probe, read_clip, split, write_video

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
BAR = 1.3
THREADS = {"1": 1, "auto": 0}  # as `read_clip` and PyAV count them
SMALL_SET, ROUNDS, START_UP_EVERY = 100, 3, 4  # small sets are timed three times
PART_S = 5.0  # recordings are split into clips of about that
ENCODERS = ("captions", "tiny", "published sizes")


def read_sets(data: Path) -> dict[str, list[Job]]:
    """Every folder of captioned clips under `data`; `long` comes whole, and split into parts."""
    folders = [table.parent for table in sorted(data.glob("*/captions.jsonl"))]
    if not folders:
        raise SystemExit(f"{data}: no folders of captioned clips are there; name the folder that holds them: --data")
    sets: dict[str, list[Job]] = {}
    for folder in folders:
        jobs = sets[folder.name] = read_jobs(folder)
        if folder.name == "long":
            sets[f"long in {PART_S:g} s"] = [
                replace(job, start_s=round(start, 3), end_s=round(end, 3))
                for job in jobs
                for start, end in split(probe(job.video), length_s=PART_S)
            ]
    return sets


def spread(jobs: list[Job], most: int | None) -> list[Job]:
    """At most that many, evenly from the whole list."""
    if most is None or len(jobs) <= most:
        return jobs
    return [jobs[i] for i in np.linspace(0, len(jobs) - 1, most).round().astype(int)]


def ours(job: Job, threads: int) -> None:
    read_clip(job.video, start_s=job.start_s or 0.0, end_s=job.end_s, threads=threads)


def cli(job: Job, threads: int) -> None:
    count = ["-threads", str(threads)] if threads else []
    span = ["-ss", str(job.start_s), "-to", str(job.end_s)] if job.end_s is not None else []
    source = [*count, *span, "-i", job.video, "-map", "0:v:0"]
    subprocess.run(["ffmpeg", "-v", "error", "-nostdin", *source, "-f", "null", "-"], check=True)


def in_process(job: Job, threads: int) -> None:
    with av.open(job.video) as container:
        stream = container.streams.video[0]
        stream.thread_count, stream.thread_type = threads, "AUTO"
        origin = float((stream.start_time or 0) * stream.time_base)
        if job.start_s:
            container.seek(int((origin + job.start_s) / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            if job.end_s is not None and frame.time - origin >= job.end_s:
                break


def measure_decode(name: str, jobs: list[Job], one_frame: Job) -> list[dict]:
    """One row for each setting of threads; of several rounds the median counts, clip by clip."""
    rounds = ROUNDS if len(jobs) < SMALL_SET else 1
    functions = {"ours": ours, "in_process": in_process} | ({"cli": cli} if shutil.which("ffmpeg") else {})
    variants = [(threads, way) for threads in THREADS for way in functions]
    seconds = {variant: [] for variant in variants}  # one entry a clip
    start_ups = {threads: [] for threads in THREADS}
    for number, job in enumerate(jobs):
        Path(job.video).read_bytes()  # into the page cache, for all alike
        first = number % len(variants)  # no way always comes first
        for threads, way in variants[first:] + variants[:first]:
            seconds[threads, way].append([timed(functions[way], job, THREADS[threads]) for _ in range(rounds)])
        if "cli" in functions and number % START_UP_EVERY == 0:
            for threads, count in THREADS.items():
                start_ups[threads].append([timed(cli, one_frame, count) for _ in range(rounds)])
    return [
        decode_row(name, threads, {way: seconds[threads, way] for way in functions}, start_ups[threads])
        for threads in THREADS
    ]


def timed(function, *arguments) -> float:
    begin = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - begin


def decode_row(name: str, threads: str, runs: dict, start_ups: list[list[float]]) -> dict:
    """Totals over the clips, and ours as a multiple of each other way."""
    seconds = {way: [statistics.median(rounds) for rounds in clips] for way, clips in runs.items()}
    total, clips = {way: sum(values) for way, values in seconds.items()}, len(seconds["ours"])
    row = {"set": name, "threads": threads, "clips": clips, "rounds": len(runs["ours"][0])}
    row |= {f"{way}_s": total.get(way) for way in ("ours", "cli", "in_process")}
    row["clips_per_s"] = clips / total["ours"]
    row["start_up_s"] = statistics.fmean(map(statistics.median, start_ups)) if start_ups else None
    beside = {way: total["ours"] / total[way] if way in total else None for way in ("cli", "in_process")}
    net = total["cli"] - clips * row["start_up_s"] if start_ups else 0.0
    row |= {f"ratio_{way}": ratio for way, ratio in beside.items()}
    row["ratio_cli_less_start_up"] = total["ours"] / net if net > 0 else None
    each = [mine / other for mine, other in zip(seconds["ours"], seconds["in_process"], strict=True)]
    row["ratio_in_process_of_clips"] = {"median": statistics.median(each), "largest": max(each)}
    given = [*beside.values(), row["ratio_cli_less_start_up"]]
    row["bar_held"] = all(ratio <= BAR for ratio in given if ratio is not None)
    return row


DECODE_COLUMNS = ("set", "threads", "clips", "ours_s", "cli_s", "in_process_s", "clips_per_s", "start_up_s")
DECODE_COLUMNS += ("ratio_cli", "ratio_cli_less_start_up", "ratio_in_process", "bar_held")


def make_models(folder: Path, encoders: str) -> list[str]:
    """Encoders with random weights on disk, and resamplers for the large ones; the options that name them."""
    if encoders == "captions":
        return []
    import transformers

    from motionrag.models.adapter import AdapterConfig
    from motionrag.models.bundle import BundleConfig, MotionBundle

    small = {"hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 3}
    large = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 518}
    tiny, crop = encoders == "tiny", {"crop_size": {"height": 224, "width": 224}}
    motion = {"intermediate_size": 768, **small} if tiny else {}  # VideoMAEConfig is that of the base model
    appearance = {"patch_size": 16, "image_size": 224, **small} if tiny else large
    made = {
        "motion": transformers.VideoMAEModel(transformers.VideoMAEConfig(use_mean_pooling=True, **motion)),
        "appearance": transformers.Dinov2Model(transformers.Dinov2Config(**appearance)),
    }
    if not tiny:  # the adapter plays no part in an ingest: one site will do
        adapter = AdapterConfig(base="svd", sites={"mid.attn2": 64}, motion_dim=1024)
        made["bundle"] = MotionBundle(BundleConfig(adapter=adapter))
    for name, model in made.items():
        model.save_pretrained(folder / name)
    transformers.VideoMAEImageProcessor(size={"shortest_edge": 224}, **crop).save_pretrained(folder / "motion")
    transformers.BitImageProcessor(size={"shortest_edge": 256}, **crop).save_pretrained(folder / "appearance")
    return [word for name in made for word in (f"--{name}", str(folder / name))]


def write_table(path: Path, jobs: list[Job]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerow(["video", "caption", "start", "end"])
        csv.writer(file).writerows([job.video, job.caption, job.start_s, job.end_s] for job in jobs)
    return path


class Ingest:
    """A running `motionrag ingest`."""

    def __init__(self, table: Path, db: Path, workers: int, options: list[str]) -> None:
        command = [sys.executable, "-m", "motionrag", "ingest", str(table), "--db", str(db), "--json"]
        command += ["--workers", str(workers), *options]
        offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
        self.began = time.perf_counter()
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=offline)
        self.seconds, self.main_mb, self.workers_mb = 0.0, 0.0, {}

    def result(self) -> dict:
        """What it reported, with seconds and peak memory, once it has ended."""
        output, errors = (text.decode() for text in self.process.communicate())
        if self.process.returncode:
            raise SystemExit(f"{' '.join(self.process.args)} failed:\n{errors}")
        memory = {"main_mb": self.main_mb, "worker_mb": max(self.workers_mb.values(), default=0.0)}
        return {**json.loads(output), "command_s": self.seconds, **memory}

    def watch(self) -> bool:
        """Note the peaks so far, of children once they run a program of their own; false when it has ended."""
        if self.process.poll() is not None:
            return False
        self.seconds = time.perf_counter() - self.began
        main = self.process.pid
        self.main_mb = max(self.main_mb, peak_mb(main))
        for child in children(main):
            if of_process(child, "cmdline") not in ("", of_process(main, "cmdline")):
                self.workers_mb[child] = max(self.workers_mb.get(child, 0.0), peak_mb(child))
        return True


def run(ingests: list[Ingest]) -> list[dict]:
    """Wait for processes that run side by side; what came of each."""
    while True in [ingest.watch() for ingest in ingests]:
        time.sleep(0.05)
    return [ingest.result() for ingest in ingests]


def of_process(pid: int, file: str) -> str:
    try:
        return Path(f"/proc/{pid}/{file}").read_text()
    except OSError:  # it has ended
        return ""


def peak_mb(pid: int) -> float:
    lines = of_process(pid, "status").splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def children(pid: int) -> list[int]:
    everyone = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [one for one in everyone if of_process(one, "stat").rpartition(")")[2].split()[1:2] == [str(pid)]]


def measure_ingest(encoders, jobs, workers, processes, options, folder) -> dict:
    """Processes with a share of the rows each, at once into one fresh database; and the same commands once more."""
    tables = [write_table(folder / f"rows{i}.csv", jobs[i::processes]) for i in range(processes)]
    db = folder / f"{encoders} {workers} {processes}"
    first, again = (run([Ingest(table, db, workers, options) for table in tables]) for _ in range(2))
    check_count(db, first, jobs)
    if any(result["decoded"] for result in again):
        raise SystemExit(f"{encoders}: the second run was not idle: {again}")
    row = {"encoders": encoders, "workers": workers, "processes": processes} | summary(first)
    return row | {f"again_{name}": max(result[name] for result in again) for name in ("command_s", "elapsed_s")}


def summary(results: list[dict]) -> dict:
    """Processes that ran side by side as one: counts and work add up; waits and memory are the largest one's."""
    added = ("added", "duplicates", "set_aside", "decode_s", "encode_s", "write_s")
    row = {name: sum(result[name] for result in results) for name in added}
    row |= {name: max(result[name] for result in results) for name in ("command_s", "main_mb", "worker_mb")}
    row["ingest_s"] = max(result["elapsed_s"] for result in results)  # each's own, without imports and loading
    return row | {"clips_per_s": row["added"] / row["ingest_s"]}


def check_count(db: Path, results: list[dict], jobs: list[Job]) -> None:
    """The database must hold each part of each content once, whoever brought it in."""
    wanted = len({(content_hash(job.video), job.span) for job in jobs}) - sum(r["set_aside"] for r in results)
    found = MotionDatabase.open(db).count()
    if not found == sum(result["added"] for result in results) == wanted:
        raise SystemExit(f"{wanted} clips should be in the database, {found} are: {results}")


INGEST_COLUMNS = ("encoders", "workers", "processes", "added", "ingest_s", "clips_per_s", "decode_s", "encode_s")
INGEST_COLUMNS += ("write_s", "command_s", "again_command_s", "main_mb", "worker_mb")


def cell(value) -> str:
    if isinstance(value, float):
        return f"{value:.3f}" if value < 1 else f"{value:,.2f}" if value < 10 else f"{value:,.0f}"
    return "-" if value is None else str(value)


def show(row: dict, columns: tuple[str, ...], rows: list[dict]) -> None:
    """Keep a row, and print it as a line of a table."""
    if not rows:
        print("\n|", " | ".join(name.replace("_", " ") for name in columns), "|\n|" + "---|" * len(columns))
    rows.append(row)
    print("| " + " | ".join(cell(row[name]) for name in columns) + " |", flush=True)


def about() -> dict:
    """The machine, before it is busy with this."""
    names = [line.split(": ")[1] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    cli = subprocess.check_output(["ffmpeg", "-version"], text=True).split()[2] if shutil.which("ffmpeg") else None
    return {
        "cpu": " ".join(names[:1]),
        "cores": os.cpu_count(),
        "load_at_start": os.getloadavg(),
        "libavcodec of PyAV": ".".join(map(str, av.library_versions["libavcodec"])),
        "ffmpeg of PATH": cli or "none: its figures are left out",
    }


def decode_part(sets: dict[str, list[Job]], arguments: argparse.Namespace) -> list[dict]:
    rows: list[dict] = []
    with tempfile.TemporaryDirectory() as folder:
        write_video(f"{folder}/one.mp4", np.zeros((1, 3, 48, 64), np.uint8), 10)
        for name, jobs in sets.items():
            jobs = spread(jobs, arguments.decode_clips)
            for row in measure_decode(name, jobs, Job(video=f"{folder}/one.mp4")):
                show(row, DECODE_COLUMNS, rows)
    return rows


def ingest_part(sets: dict[str, list[Job]], arguments: argparse.Namespace) -> list[dict]:
    jobs = [job for name, jobs in sets.items() if name != "long" for job in jobs]
    rows: list[dict] = []
    counts = (arguments.clips, arguments.tiny_clips, arguments.large_clips)
    for encoders, most in [pair for pair in zip(ENCODERS, counts, strict=True) if pair[1] != 0]:
        with tempfile.TemporaryDirectory() as name:
            folder, few = Path(name), spread(jobs, most)
            options = make_models(folder, encoders)
            for workers in arguments.workers[-1:] if encoders == ENCODERS[-1] else arguments.workers:
                show(measure_ingest(encoders, few, workers, 1, options, folder), INGEST_COLUMNS, rows)
            if encoders == "captions":
                show(measure_ingest(encoders, few, 1, 2, options, folder), INGEST_COLUMNS, rows)
    return rows


def main() -> None:
    """Measure, print the tables, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="holds folders with captions.jsonl (%(default)s)")
    parser.add_argument("--decode-clips", type=int, help="at most so many of a set (default: all)")
    parser.add_argument("--clips", type=int, help="at most so many for an ingest of captions (default: all)")
    parser.add_argument("--tiny-clips", type=int, default=150, help="for tiny encoders; 0: none (%(default)s)")
    parser.add_argument("--large-clips", type=int, default=24, help="for the published sizes (%(default)s)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="the last for the published sizes")
    parser.add_argument("--only", choices=["decode", "ingest"])
    parser.add_argument("--quick", action="store_true", help="a few clips, to try this script")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.decode_clips, arguments.clips, arguments.tiny_clips = 4, 4, 2
        arguments.large_clips, arguments.workers = 0, [1]
    figures, sets = {"about": about()}, read_sets(arguments.data)
    print(json.dumps(figures["about"]))
    for name, part in (("decode", decode_part), ("ingest", ingest_part)):
        if arguments.only in (None, name):
            figures[name] = part(sets, arguments)
            if arguments.out:
                arguments.out.parent.mkdir(parents=True, exist_ok=True)
                arguments.out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
