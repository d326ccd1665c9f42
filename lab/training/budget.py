"""Chooses image size, schedule and number of epochs so that a run should end within a given time."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from lab.errors import UserError
from lab.text import counted, duration
from lab.training.forecast import Pace
from lab.training.recipe import Settings
from models.catalog import find

LARGEST = 128  # px; the default on a GPU
STEP = 16  # px between the sizes to choose from
MARGIN = 0.9  # of the time, because measured steps vary by a tenth, and more beside other programs


def fitting(pace: Pace, settings: Settings, seconds: float, given: Collection[str]) -> Settings:
    """The settings of the best run that fits into so many seconds. Raises :class:`UserError` if not even one epoch fits.

    Returned is the largest size at which half of the epochs fit, or else the smallest, with as many epochs as fit. The first
    epochs train on smaller images, because that leaves time for more of them. Sizes are at most that of ``settings``, and at
    least the smaller one that ``pace`` was measured at. Options ``given`` by the user stay.
    """
    model = find(settings.model)
    progressive = settings.progressive if "progressive" in given else not model.sized
    sizes = {settings.size}
    if "size" not in given and not model.sized:
        largest = max(pace.small, min(settings.size, settings.window))  # enlarged pixels show nothing new
        sizes = {pace.small, largest, *range(-(-pace.small // STEP) * STEP, largest, STEP)}
    enough = settings.epochs if "epochs" in given else (settings.epochs + 1) // 2
    for size in sorted(sizes, reverse=True):
        sized = replace(settings, size=size, progressive=progressive)
        least = enough if size > min(sizes) or "epochs" in given else 1
        for epochs in range(settings.epochs, least - 1, -1):
            candidate = replace(sized, epochs=epochs)
            if pace.run(candidate) <= MARGIN * seconds:
                return candidate
    short = replace(settings, size=min(sizes), epochs=least, progressive=progressive)
    needs = f"{duration(pace.run(short) / MARGIN)} for {counted(least, 'epoch')} at {short.size} px"
    raise UserError(
        f"--budget: {settings.model} needs {needs}, and has {duration(max(0, seconds))}; give more minutes."
    )
