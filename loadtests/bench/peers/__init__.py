"""The programs that are compared: each is a recipe in a file of this folder and one line here.

All proxy the same way: one worker, keep-alive on both sides, forwarding headers, and an access-log line per
request where the program writes one. Knows nothing of how they are measured.
"""

import sys
from collections.abc import Mapping

from loadtests.bench.peers import envoy, haproxy, llm, nginx, overspill
from loadtests.bench.peers.plan import Peer, Plan, Site, Skipped
from loadtests.bench.workload import CHAT_PATH, Kind

_ANY = frozenset(Kind)
_CHAT = (frozenset({Kind.HTTP}), frozenset({CHAT_PATH}))
# sglang-router 0.3.2 cuts the played event streams, Portkey 1.15 answers them with 500: whole answers only.
_OPENAI = (frozenset({Kind.HTTP, Kind.SSE}), frozenset({CHAT_PATH}))


def _direct(site: Site) -> Plan | Skipped:
    return Plan(name="direct", version="", argv=[], port=site.upstream_port)


def _forward(site: Site) -> Plan | Skipped:
    argv = [sys.executable, "-m", "loadtests.bench.grpc_forward", "--serve", "forward"]
    return Plan(
        name="forward", version="bare grpc.aio", argv=[*argv, str(site.port), str(site.upstream_port)],
        port=site.port,
    )  # fmt: skip


PEERS: Mapping[str, Peer] = {
    "direct": Peer(_direct, _ANY),
    "nginx": Peer(nginx.plan, _ANY),
    "haproxy": Peer(haproxy.plan, _ANY),
    "envoy": Peer(envoy.plan, _ANY),
    "overspill": Peer(overspill.plan, _ANY),
    "overspill_simple": Peer(overspill.plan_simple, _ANY),
    "overspill_sleeping": Peer(overspill.plan_sleeping, _ANY),
    "sglang_router": Peer(llm.plan_sglang_router, *_CHAT),
    "vllm_router": Peer(llm.plan_vllm_router, *_OPENAI),
    "litellm": Peer(llm.plan_litellm, *_OPENAI),
    "portkey": Peer(llm.plan_portkey, *_CHAT),
    "forward": Peer(_forward, frozenset({Kind.GRPC})),
}
"""Every peer by its name on the command line, in the order of a round."""
