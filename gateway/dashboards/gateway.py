"""The page of the gateway itself: its processes, its configuration, its tenants, and what it could not tell.

Pure. What only some gateways use, such as TLS or tenants, is 0 here for the others.
"""

from gateway.dashboards.pages import (
    Page,
    Panel,
    Query,
    Row,
    Step,
    increase,
    of,
    or_none,
    rate,
    total,
)

_FILE = (("0", "rejected", "red"), ("1", "taken over", "green"))


def _of_process(metric: str) -> str:
    return f'process_{metric}{{job=~"$job"}}'


_WORKERS = f"(max by (instance) ({of('workers')}) or count by (instance) ({of('build_info')}))"
"""One where a single process is all of the gateway."""

_PROCESS = Row(
    "Processes",
    (
        Panel(
            "Cores used",
            "CPU seconds a second. One process answers with one core; `--workers` are more of them.",
            "lines",
            (Query(total(rate(_of_process("cpu_seconds_total")), "instance"), "{{instance}}"),),
            width=6,
        ),
        Panel(
            "Memory",
            "Resident.",
            "lines",
            (Query(total(_of_process("resident_memory_bytes"), "instance"), "{{instance}}"),),
            "bytes",
            width=6,
        ),
        Panel(
            "Open files and sockets",
            "Of as many as its processes may have, on average over the workers.",
            "lines",
            (
                Query(
                    f"{total(_of_process('open_fds'), 'instance')} / "
                    f"({total(_of_process('max_fds'), 'instance')} * {_WORKERS})",
                    "{{instance}}",
                ),
            ),
            "percentunit",
            width=6,
        ),
        Panel(
            "Tasks",
            "Of the event loop, one a connection among them. A number that only rises is a leak.",
            "lines",
            (Query(total(of("event_loop_tasks"), "instance"), "{{instance}}"),),
            width=6,
        ),
        Panel(
            "Turned away at the door",
            "Requests a second that were refused by their head, because the process had more to do than it "
            "could: more workers or gateways are needed.",
            "area",
            (Query(total(rate(of("turned_away_total")), "priority"), "{{priority}}"),),
            "reqps",
        ),
        Panel(
            "Workers",
            "Processes that answer, and how many a minute had to be started again.",
            "lines",
            (
                Query(_WORKERS, "{{instance}}"),
                Query(
                    or_none(
                        "60 * " + total(rate(of("worker_restarts_total")), "instance"), "instance", "none"
                    ),
                    "{{instance}} started again",
                ),
            ),
        ),
        Panel(
            "TLS handshakes that failed",
            "A second, by port and why.",
            "lines",
            (
                Query(
                    or_none(
                        total(rate(of("tls_handshake_failures_total")), "port", "reason"), "port", "no TLS"
                    ),
                    "{{port}} {{reason}}",
                ),
            ),
        ),
    ),
)

_CONFIGURATION = Row(
    "Configuration",
    (
        Panel(
            "The last file",
            "Was it taken over? Where it was rejected, the one before goes on.",
            "states",
            (
                Query(
                    f"min by (instance) ({of('config_last_reload_successful')})",
                    "{{instance}}",
                ),
            ),
            width=12,
            words=_FILE,
        ),
        Panel(
            "Gateways by what they run",
            "By version, and by revision of their configuration: more than one while a change is rolled out.",
            "lines",
            (
                Query(f"count by (version) ({of('build_info')})", "version {{version}}"),
                Query(f"count by (revision) ({of('config_info')})", "revision {{revision}}"),
            ),
            width=12,
        ),
        Panel(
            "Reloads",
            "In the time that is shown, by what became of them.",
            "number",
            (Query(total(increase(of("config_reloads_total")), "result"), "{{result}}"),),
            decimals=0,
        ),
        Panel(
            "Since a file was read and found good",
            "Whether it changed anything or not.",
            "number",
            (
                Query(
                    f"time() - max by (instance) ({of('config_last_reload_success_timestamp_seconds')})",
                    "{{instance}}",
                ),
            ),
            "s",
        ),
        Panel(
            "Calls by a configuration that was replaced",
            "They end by the rules they began with.",
            "lines",
            (
                Query(
                    or_none(total(of("config_draining_calls"), "instance"), "instance", "none"),
                    "{{instance}}",
                ),
            ),
        ),
    ),
)

_TOLD = Row(
    "What was not told",
    (
        Panel(
            "Access log lines lost",
            "A second: the disk was full or too slow. Metrics have these calls all the same.",
            "lines",
            (Query(total(rate(of("access_log_lost_total")), "instance"), "{{instance}}"),),
            width=12,
            steps=(Step(None, "green"),),
        ),
        Panel(
            "Traces",
            "Sampled calls a second by what became of their spans.",
            "area",
            (
                Query(
                    or_none(total(rate(of("traced_calls_total")), "result"), "result", "tracing is off"),
                    "{{result}}",
                ),
            ),
            "reqps",
            width=12,
        ),
    ),
)


def _by_tenant(series: str, *labels: str) -> str:
    return or_none(total(rate(series), "tenant", *labels), "tenant", "no tenants")


_TENANTS = Row(
    "Tenants",
    (
        Panel(
            "Calls",
            "A second, by who asked and how they ended.",
            "area",
            (Query(_by_tenant(of("tenant_requests_total"), "outcome"), "{{tenant}} {{outcome}}"),),
            "reqps",
        ),
        Panel(
            "Dollars an hour",
            "What their calls cost, as far as that is known.",
            "area",
            (Query("3600 * " + _by_tenant(of("tenant_cost_usd_total")), "{{tenant}}"),),
            "currencyUSD",
        ),
        Panel(
            "Refused for their limits",
            "Calls a second, by the limit that they had reached.",
            "lines",
            (Query(_by_tenant(of("tenant_limited_total"), "limit"), "{{tenant}} {{limit}}"),),
            "reqps",
        ),
    ),
)

GATEWAY = Page(
    "overspill-gateway",
    "Overspill / Gateway",
    "Does the gateway itself keep up, what does it run, and who asks?",
    (),
    (_PROCESS, _CONFIGURATION, _TOLD, _TENANTS),
)
