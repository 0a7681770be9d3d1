"""Who does the work: this process, local processes, or Ray. Each gives the results of `map` in the order of its items."""

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import IO, Any, Literal, Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Report = Callable[[int], None]
"""Called with the bytes that were done since the last call."""
Task = Callable[[Any, Report], Any]
"""A stage's work on one item: importable by its name, as pickle needs it; what it makes lies in files, what it returns is small."""
EngineName = Literal["local", "ray"]


class Engine(Protocol):
    """Somebody who does tasks."""

    def map(self, task: Task, items: Iterable[Any], report: Report = ...) -> Iterator[Any]:
        """`task(item, report)` of each item, in their order."""
        ...


def engine_of(name: EngineName, workers: int, modules: Sequence[str] = ()) -> AbstractContextManager[Engine]:
    """The engine of that name, to be used in a `with`; one local worker is this process itself. `modules`: where its tasks come from."""
    if workers < 1:
        raise ValueError(f"--workers {workers} does nothing: give at least 1")
    if name == "ray":
        return Ray(workers)
    if name != "local":
        raise ValueError(f"--engine {name!r} is unknown: known are local, ray")
    return Processes(workers, modules) if workers > 1 else nullcontext(Here())


def ignored(_: int) -> None:
    """A report that nobody waits for."""


class Here:
    """This process."""

    def map(self, task: Task, items: Iterable[Any], report: Report = ignored) -> Iterator[Any]:
        return (task(item, report) for item in items)


class Processes:
    """Local processes, started at once: fresh ones of this Python, that end with this one and run no code of its `__main__`.

    `modules` are those that their tasks come from: they load them while this process goes on.
    """

    def __init__(self, workers: int, modules: Sequence[str] = ()):
        self.workers, self.modules = workers, modules
        self._idle: deque[_Worker] = deque()
        self._started: list[_Worker] = []

    def __enter__(self) -> "Processes":
        self._idle.extend(self._begun() for _ in range(self.workers))
        return self

    def _begun(self) -> "_Worker":
        self._started.append(worker := _Worker(self.modules))
        return worker

    def __exit__(self, *_) -> None:
        for worker in self._started:
            worker.stop()

    def map(self, task: Task, items: Iterable[Any], report: Report = ignored) -> Iterator[Any]:
        """As many items are under way as there are workers, and twice as many results wait at the most; a single one is done here.

        Raises what a task raises; `ChildProcessError` naming the item (as `str` tells it) when its process is killed.
        """
        items = list(items)
        if len(items) < 2:
            yield from Here().map(task, items, report)
            return
        alone = threading.Lock()

        def told(done: int) -> None:
            with alone:
                report(done)

        def ask(item: Any) -> Any:
            try:
                worker = self._idle.pop()
            except IndexError:  # they were stopped when a task failed
                worker = self._begun()
            result = worker.ask(task, item, told)
            self._idle.append(worker)
            return result

        threads = ThreadPoolExecutor(self.workers, thread_name_prefix="fledge-prepare")
        waiting: deque[Future] = deque()
        try:
            for item in items:
                waiting.append(threads.submit(ask, item))
                if len(waiting) > 3 * self.workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            for worker in self._started:
                worker.stop()  # whoever waits for one hears of it
            self._started, self._idle = [], deque()
            raise
        finally:
            threads.shutdown()


class _Worker:
    """A process that is told a task and an item, and tells bytes done, and then the result."""

    def __init__(self, modules: Sequence[str]) -> None:
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
            "TOKENIZERS_PARALLELISM": "false",
            "OMP_NUM_THREADS": "1",
        }
        start = f"import {', '.join(('fledge.data.engine', *modules))}; fledge.data.engine.serve()"
        self.process = subprocess.Popen([sys.executable, "-c", start], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)

    def ask(self, task: Task, item: Any, report: Report) -> Any:
        try:
            _send(_pipe(self.process.stdin), (task, item))
            while True:
                kind, value = pickle.load(_pipe(self.process.stdout))
                if kind == "done":
                    return value
                if kind == "raised":
                    raise value
                report(value)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            code = self.process.wait()
            how = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with code {code}"
            raise ChildProcessError(
                f"the process that worked on {item} {how}, perhaps for want of memory; what was finished is kept: "
                "give the same command again, with fewer --workers if it happens again"
            ) from None

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError):
                _pipe(pipe).close()


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


def _send(pipe: IO[bytes], value: Any) -> None:
    pickle.dump(value, pipe, pickle.HIGHEST_PROTOCOL)
    pipe.flush()


def serve() -> None:
    """The life of a worker: one task after another from standard input, until that ends; it ends in the midst of one as well."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process decides
    orders = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    heard, hearing = os.pipe()

    def listen() -> None:
        while data := os.read(orders.fileno(), 1 << 16):
            view = memoryview(data)
            while view:
                view = view[os.write(hearing, view) :]
        os._exit(1)  # whoever gave the orders is gone

    threading.Thread(target=listen, daemon=True).start()
    with os.fdopen(heard, "rb") as mail:
        while True:
            task, item = pickle.load(mail)
            try:
                answer = ("done", task(item, lambda done: _send(answers, ("report", done))))
            except Exception as wrong:
                answer = ("raised", _sendable(wrong))
            _send(answers, answer)


def _sendable(wrong: Exception) -> Exception:
    """The exception, with its way here told; as another if it does not survive the journey."""
    import traceback

    try:
        pickle.loads(pickle.dumps(wrong))
    except Exception:
        wrong = RuntimeError(f"{type(wrong).__name__}: {wrong}")
    if not isinstance(wrong, (ValueError, OSError)):
        wrong.add_note("".join(traceback.format_exception(wrong)))
    return wrong


class Ray:
    """A Ray cluster: the one that `RAY_ADDRESS` names, else one on this machine; it has to see the same files by the same names."""

    def __init__(self, workers: int):
        self.workers = workers

    def __enter__(self) -> "Ray":
        try:
            import ray
            import ray.data
        except ImportError:
            raise ValueError("--engine ray needs ray, which is not installed: pip install 'fledge[ray]'") from None
        self.ray, self.own = ray, not ray.is_initialized()
        if self.own:
            paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
            told: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False, "runtime_env": {"env_vars": {"PYTHONPATH": paths}}}
            if "RAY_ADDRESS" not in os.environ:
                told |= {"num_cpus": self.workers, "include_dashboard": False}
            ray.init(**told)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        return self

    def __exit__(self, *_) -> None:
        if self.own:
            self.ray.shutdown()

    def map(self, task: Task, items: Iterable[Any], report: Report = ignored) -> Iterator[Any]:
        """Each item is a row of a data set in a block of its own; the rows that come back are put into their order."""
        rows = [{"number": number, "order": pickle.dumps((task, item))} for number, item in enumerate(items)]
        if not rows:
            return
        found = self.ray.data.from_items(rows, override_num_blocks=len(rows)).map(_answered)
        early: dict[int, bytes] = {}
        wanted = 0
        for row in found.iter_rows():
            early[row["number"]] = row["answer"]
            while wanted in early:
                kind, value, done = pickle.loads(early.pop(wanted))
                if kind == "raised":
                    raise value
                report(done)
                wanted += 1
                yield value


def _answered(row: dict[str, Any]) -> dict[str, Any]:
    task, item = pickle.loads(row["order"])
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more

    try:
        answer = ("done", task(item, count))
    except Exception as wrong:
        answer = ("raised", _sendable(wrong))
    return {"number": row["number"], "answer": pickle.dumps((*answer, done))}
