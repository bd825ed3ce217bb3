"""``run.py serve [ComfyUI's own flags]``: ComfyUI with this pack, with live previews, until Ctrl-C."""

import argparse
import socket
import sys
import time

from . import HOST_VARIABLE, ROOT, WORK, TaskError, end_on_terminate, named_path
from .host.hosts import host_suffix
from .host.server import Server

PREVIEWS = ("--preview-method", "auto")  # ComfyUI's own default is to show none


def user_server(port: int = 0, arguments: list[str] = ()) -> Server:
    """A server for a person: the host's own folders if the pack is installed in it, else a folder of ours that stays.

    The models of a host that someone named are offered as well. ``arguments`` are ComfyUI's, of which the last counts.
    """
    host = named_path(HOST_VARIABLE)
    flags = (*PREVIEWS, *arguments)
    if ROOT.parent == host / "custom_nodes":
        WORK.mkdir(exist_ok=True)
        return Server(None, port=port, arguments=flags, log=WORK / "server.log")
    suffix = host_suffix(host)
    extra_models = host if suffix and (host / "models").is_dir() else None
    return Server(WORK / f"base{suffix}", port=port, arguments=flags, extra_models=extra_models)


def stay(server: Server) -> None:
    """Print the address and wait for Ctrl-C, or for the server's end."""
    server.check_pack()
    templates = server.get_json("/workflow_templates")
    print(f"\nComfyUI is at {server.address}\n")
    print(f"Workflows: Workflow > Browse Templates > {', '.join(templates) or '(none found)'}")
    print(f"Models:    {server.models}\nResults:   {server.base / 'output'}\nLog:       {server.log}\nCtrl-C stops it.")
    sys.stdout.flush()
    try:
        while server.running:
            time.sleep(0.5)
    except KeyboardInterrupt:
        print("stopped")
        return
    raise TaskError(f"ComfyUI ended. The end of {server.log}:\n{server.log_tail()}")


def free_port_from(port: int) -> int:
    """The first free port from ``port`` on."""
    for candidate in range(port, port + 100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", candidate)) != 0:
                return candidate
    raise TaskError(f"No free port from {port} to {port + 99}.")


def main() -> int:
    """Serve; returns the exit status."""
    parser = argparse.ArgumentParser(prog="run.py serve", description=__doc__, allow_abbrev=False)
    parser.add_argument("--port", type=int)
    options, flags = parser.parse_known_args()
    end_on_terminate()
    try:
        print(f"starting ComfyUI from {named_path(HOST_VARIABLE)} ...", flush=True)
        with user_server(options.port or free_port_from(8188), flags) as server:
            stay(server)
    except TaskError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
