"""What follows from a frame of the server, for the owner of the core to carry out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast_reference.client.frames import GoAway, Pong, Welcome

if TYPE_CHECKING:
    from holdfast_reference.client.exchanges import Fate
    from holdfast_reference.client.frames import Part, Terminal


@dataclass(frozen=True, slots=True)
class Arrived:
    """The server said this about exchange `id`."""

    id: int
    item: Part | Terminal


@dataclass(frozen=True, slots=True)
class Lost:
    """Exchange `id` ended with its session, or was started again in the new one, there called `again`."""

    id: int
    fate: Fate
    again: int | None = None


Effect = Welcome | GoAway | Pong | Arrived | Lost
