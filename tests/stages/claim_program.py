"""Claims a room in each of several ranks and says what came of it. For tests: a program that torchrun starts."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from gaekit.errors import GaekitError, ReportedByRank0
from gaekit.parallel import join_world
from gaekit.stages.claim import claim
from gaekit.store.room import Room
from gaekit.train.progress import Reporter

with join_world(torch.device("cpu")) as world:
    print(f"rank {world.rank} is {os.getpid()}", flush=True)
    room = Room(Path(sys.argv[1]))
    try:
        with claim(room, "diffusion", world, Reporter(), wait=True) as done:
            print(f"rank {world.rank} has {done}", flush=True)
    except ReportedByRank0 as error:
        print(f"rank {world.rank} ends with {error.exit_code}, told by rank 0", flush=True)
    except GaekitError as error:
        print(f"rank {world.rank} ends with {error.exit_code}: {error}", flush=True)
