"""Where the trainings of a command run: in processes of this machine, or on the machines of a Ray cluster."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from finsense.cli.errors import USAGE, refuse
from finsense.cli.extras import agents
from finsense.config import Experiment
from finsense.config.rendering import to_plain

Jobs = Annotated[int | None, typer.Option(metavar="J", min=1, help="Trainings at once; as many as there are cores.")]
Engine = Annotated[
    Literal["local", "ray"],
    typer.Option(help="Where trainings run: in processes here, or on a Ray cluster (extra scale)."),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="With --engine ray: auto, or HOST:PORT of the cluster's head; without it RAY_ADDRESS, or a cluster of "
        "this machine alone for the time of the command.",
    ),
]


def crew_maker(
    engine: Literal["local", "ray"], jobs: int | None, address: str | None, experiment: Experiment
) -> Callable[[Path], Any]:
    """From the folder of the trainings to the `finsense.agents.crew.Crew` that does them, a context manager.

    What is not installed or does not go together is refused here, before a folder is made.
    """
    if engine == "local":
        if address is not None:
            refuse("usage", "--ray-address belongs to --engine ray", USAGE)
        return lambda folder: agents("local_crew").LocalCrew(jobs or cores())
    if address is None and "RAY_ADDRESS" not in os.environ:
        # Ray reads it when it is imported: all it starts listens to this machine only.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    try:
        ray_crew = agents("ray_crew")
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        refuse("extras", "--engine ray needs `ray`: pip install 'finsense[scale]'", USAGE)
    return partial(ray_crew.RayCrew, files=_files(experiment), jobs=jobs, address=address)


def _files(experiment: Experiment) -> tuple[Path, ...]:
    """What is read in training; what is missing here too is told by who reads it."""
    found: list[Path] = []

    def note(path: Path) -> str:
        found.append(path)
        return str(path)

    to_plain(experiment.model_dump(), path=note)
    return tuple(path for path in found if path.exists())


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0))
