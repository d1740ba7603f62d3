"""The same function in several processes that are joined as torchrun joins them."""

import multiprocessing
import os

import torch
from torch.distributed import TCPStore


def together(world, function, folder, *arguments):
    """Results of function(*arguments) in `world` processes; None of one that failed, whose error
    is in rank<r>.txt of the folder."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["hashfast.hashing", "pytest", "sklearn.datasets"])
    # As torchrun does; a port that is only looked for may be taken before rank 0 listens on it.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    processes = [
        context.Process(
            target=_process, args=(world, rank, store.port, function, folder, arguments)
        )
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    hanging = [process for process in processes if process.exitcode is None]
    for process in hanging:
        process.kill()
    assert not hanging, "a process hangs"
    return [
        torch.load(folder / f"rank{rank}.pt", weights_only=False) if process.exitcode == 0 else None
        for rank, process in enumerate(processes)
    ]


def _process(world, rank, port, function, folder, arguments):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    torch.set_num_threads(1)
    try:
        torch.save(function(*arguments), folder / f"rank{rank}.pt")
    except BaseException as error:
        (folder / f"rank{rank}.txt").write_text(repr(error))
        raise
