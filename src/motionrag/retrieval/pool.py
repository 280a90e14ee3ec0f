"""Decode workers: a thread each feeds one process, so that a crash or a hang costs one video and nothing else."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection

from motionrag.errors import MotionRAGError
from motionrag.retrieval.worker import READY, Decoded, Refused, Task

Answer = Decoded | Refused | None  # None: the task is done
Look = Callable[[Task], Task | None]
COMMAND = [  # not from the working directory, where a file may be called like a module
    sys.executable,
    "-c",
    "import sys; sys.path[:] = filter(None, sys.path); from motionrag.retrieval.worker import main; main()",
]
START_S = 120.0  # for a worker to be ready; it takes about one
TIMEOUT_S = 300.0  # for one answer; the slowest honest ones, scene cuts of long films, take some minutes
READY_AHEAD = 32  # decoded clips a worker may be ahead of the encoders


class _Process:
    """One worker process and the pipes to it."""

    def __init__(self) -> None:
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115, closed by `stop`
        self._process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            start_new_session=True,  # an interrupt is for the main process, which then stops this one
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        assert self._process.stdin
        assert self._process.stdout
        self._send = Connection(os.dup(self._process.stdin.fileno()), readable=False)
        self._receive = Connection(os.dup(self._process.stdout.fileno()), writable=False)
        try:
            started = self._receive.poll(START_S) and self._receive.recv() == READY
        except (EOFError, OSError):
            started = False
        if not started:
            self._complaints.seek(0)
            said = self._complaints.read().decode(errors="replace").strip().splitlines()
            self.stop()
            raise MotionRAGError(f"a decoding process does not start: {said[-1] if said else 'it says nothing'}")

    def answers(self, task: Task) -> Iterator[Decoded | Refused]:
        """Carry out one task. Raises TimeoutError or EOFError/OSError if the process hangs or dies."""
        self._send.send(task)
        while True:
            if not self._receive.poll(TIMEOUT_S):
                raise TimeoutError
            answer = self._receive.recv()
            if answer is None:
                return
            yield answer

    def stop(self) -> int | None:
        """End it at once and return its exit status, if it had one."""
        status = self._process.poll()
        self._process.kill()
        self._process.wait()
        for pipe in (self._send, self._receive, self._process.stdin, self._process.stdout, self._complaints):
            if pipe is not None:
                pipe.close()
        return status


class DecodePool:
    """Carries out tasks on several processes; a context manager."""

    def __init__(self, workers: int) -> None:
        self._ready: queue.Queue[tuple[Task, Answer] | BaseException | None] = queue.Queue(READY_AHEAD * workers)
        self._stopping = threading.Event()
        self._workers = workers
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._processes: set[_Process] = set()

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        with self._lock:
            for process in self._processes:
                process.stop()
        while any(thread.is_alive() for thread in self._threads):
            self._drain()

    def run(self, tasks: Iterable[Task], look: Look) -> Iterator[tuple[Task, Answer]]:
        """Answers as they come, in no particular order; one task may have many, the last is None.

        Args:
            tasks: What to do.
            look: Called in a thread before a task is given to a process; may change it, or drop it with None.
        """
        source = iter(tasks)
        self._threads = [threading.Thread(target=self._serve, args=(source, look)) for _ in range(self._workers)]
        for thread in self._threads:
            thread.start()
        open_threads = len(self._threads)
        while open_threads:
            item = self._ready.get()
            if item is None:
                open_threads -= 1
            elif isinstance(item, BaseException):
                raise item
            else:
                yield item

    def _serve(self, source: Iterator[Task], look: Look) -> None:
        process: _Process | None = None
        try:
            while not self._stopping.is_set():
                with self._lock:
                    task = next(source, None)
                if task is None:
                    return
                seen = look(task)
                if seen is None:
                    self._ready.put((task, None))
                else:
                    process = self._one(process or self._start(), seen)
        except BaseException as error:  # the main thread must hear of it
            self._ready.put(error)
        finally:
            if process is not None:
                self._end(process)
            self._ready.put(None)

    def _one(self, process: _Process, task: Task) -> _Process | None:
        """Carry out one task; returns the process if it can serve on."""
        try:
            for answer in process.answers(task):
                self._ready.put((task, answer))
            self._ready.put((task, None))
            return process
        except TimeoutError:
            reason = f"the decoder hangs on it (no answer in {TIMEOUT_S:.0f} s)"
        except (EOFError, OSError):
            reason = "the decoder crashes on it"
        if self._end(process) not in (None, 0) and "crash" in reason:
            reason += ", or was killed: memory may have run out"
        if not self._stopping.is_set():
            self._ready.put((task, Refused(asked_start_s=task.start_s, asked_end_s=task.end_s, reason=reason)))
            self._ready.put((task, None))
        return None

    def _start(self) -> _Process:
        process = _Process()
        with self._lock:
            self._processes.add(process)
            if self._stopping.is_set():
                process.stop()
        return process

    def _end(self, process: _Process) -> int | None:
        with self._lock:
            self._processes.discard(process)
        return process.stop()

    def _drain(self) -> None:
        try:
            self._ready.get(timeout=0.05)
        except queue.Empty:
            return
