"""A device of round numbers, for plans."""

from influbench.loop.plan import Speeds
from influbench.loop.plan.calibration import Pace

EVEN = {name: Pace(0.0, 1e9) for name in ("float32", "bfloat16", "tf32")}
SLOW = Speeds(
    where="a test",
    read=EVEN,
    prompt=EVEN,
    learn=EVEN,
    train=EVEN,
    pair=EVEN,
    stream={"float32": 1e9, "bfloat16": 1e9},
    write={"float32": 1e9, "bfloat16": 1e9},
    update=1e9,
    move=1e9,
    load=1e9,
    opened=0.0,
    save=1e9,
    training=0.0,
    launch=0.0,
    together=2048,
    alone=True,
    memory=1e10,
)
