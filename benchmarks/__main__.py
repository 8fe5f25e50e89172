"""`python -m benchmarks [NAME ...]`: measure, and write one JSON line per measurement to stdout."""

import argparse
import json
import time
from collections.abc import Callable

from benchmarks import (
    crossover,
    decisions,
    dqn,
    ensemble,
    environments,
    feed,
    joint,
    kill,
    learners,
    live,
    memory,
    packets,
    start,
    states,
    supervised,
    ticks,
    trees,
)
from benchmarks.measurement import Effort, Measurement, remark

BENCHMARKS: dict[str, Callable[[Effort], list[Measurement]]] = {
    "vector_env": environments.vector_env,
    "vector_env_equal_observation": environments.vector_env_equal_observation,
    "vector_env_memory": environments.vector_env_memory,
    "limits": environments.limits,
    "trading_env": environments.trading_env,
    "build_states": states.build,
    "aggregate_ticks": ticks.aggregate,
    "build_states_against_ta": states.against_ta,
    "fold_against_talib": states.against_talib,
    "build_memory": memory.build_memory,
    "live_update": states.live_update,
    "live_update_full": states.live_update_full,
    "decision": decisions.decision,
    "backtest": decisions.backtest,
    "paper": decisions.paper,
    "joint_env": joint.joint_env,
    "joint_loop": joint.joint_loop,
    "live_order": live.order,
    "journal_recovery": live.recovery,
    "kill": kill.kill,
    "dqn": dqn.training,
    "start": start.start,
    "lstm_training": supervised.lstm_training,
    "lstm_decision": supervised.lstm_decision,
    "xgboost_decision": trees.decision,
    "xgboost_fit": trees.fitting,
    "xgboost_memory": trees.memory,
    "ensemble_decision": ensemble.decision,
    "decode_packets": packets.decode,
    "feed_whole_market": feed.whole_market,
    "ppo_learn": learners.ppo_learn,
    "ppo_update": learners.ppo_update,
    "ppo_two_seeds": learners.ppo_two_seeds,
    "ppo_crossover": crossover.ppo_crossover,
}


def main() -> None:
    """Run the benchmarks that are named, all of them by default."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one or more of: {', '.join(BENCHMARKS)}")
    parser.add_argument(
        "--rounds", type=int, default=Effort.rounds, help="rounds per measurement (default: %(default)s)"
    )
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"unknown benchmark {', '.join(unknown)}; known: {', '.join(BENCHMARKS)}")
    if arguments.rounds < 1:
        parser.error(f"expected at least 1 round, found {arguments.rounds}")
    started_s = time.monotonic()
    for name in arguments.names or BENCHMARKS:
        for line in BENCHMARKS[name](Effort(rounds=arguments.rounds)):
            print(json.dumps(line.as_dict()), flush=True)
        remark(f"-- {name} done after {time.monotonic() - started_s:.0f} s")


if __name__ == "__main__":
    main()
