"""The browser of the browser tests: a Chromium, Chrome or Edge that the machine has, or Debian's."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from .. import TaskError

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome", "msedge", "microsoft-edge")
PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "C:/Program Files/Google/Chrome/Application/chrome.exe",
    "C:/Program Files (x86)/Microsoft/Edge/Application/msedge.exe",
)
PACKAGES = ("chromium", "libusb-1.0-0")  # the second is Open3D's, whose wheel does not bring it
# No sandbox because a container's root has none; nothing that looks for the network; WebGL drawn by the CPU, so that
# every machine draws the same.
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
]


def find_browser() -> Path | None:
    """The executable, or None."""
    found = next((path for path in map(shutil.which, NAMES) if path), None)
    return Path(found) if found else next((Path(place) for place in PLACES if Path(place).is_file()), None)


def ensure_browser() -> Path:
    """The executable; where we are root on Debian it is installed for the whole system, which is said beforehand.

    TaskError says what else to do.
    """
    browser = find_browser()
    if browser is not None:
        return browser
    if not (sys.platform == "linux" and shutil.which("apt-get") and os.geteuid() == 0):
        raise TaskError("The browser tests are left out: install Chromium, Chrome or Edge to run them.")
    print(
        f"set-up: no browser here, and this is root on Debian: apt-get installs {' and '.join(PACKAGES)} "
        "for the whole system",
        flush=True,
    )
    quiet = {"stdout": subprocess.DEVNULL, "env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}}
    subprocess.run(["apt-get", "update", "-qq"], **quiet)
    installed = subprocess.run(["apt-get", "install", "-qq", "--yes", "--no-install-recommends", *PACKAGES], **quiet)
    browser = find_browser()
    if installed.returncode or browser is None:
        raise TaskError("The browser tests are left out: apt-get could not install chromium (its words are above).")
    return browser
