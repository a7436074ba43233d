"""Faults of rented backends: refusals, failures, cold starts, answers that come late or twice, expired TLS.

Must never know how they are judged.
"""

import asyncio
import importlib.util

from loadtests.chaos.certificates import write_certificates
from loadtests.chaos.fault import Expected, Fault, Misled
from loadtests.chaos.load import Load
from loadtests.chaos.stage import Metrics, Stage


class _CloudFault(Misled):
    """The provider is told to behave badly, while the fleet can take only a part of the calls."""

    who = "cloud"

    async def prepare(self, stage: Stage) -> None:
        cloud = stage.cloud(stage.upstream("cloud"))
        tiers = {"fleet": stage.fleet(stage.upstream("one"), slots=1), "cloud": cloud}
        stage.open_gateway(stage.document(tiers))


class RefusalStorm(_CloudFault):
    name = "provider_429"
    what = "the provider answers 429 to everything"
    expected = Expected(refused=0.6, healthy_s=3.0)
    bad = {"mode": "refuse"}
    quick = True


class FailureStorm(_CloudFault):
    name = "provider_500"
    what = "the provider does the work, asks for its price, and answers 500"
    expected = Expected(refused=0.6, healthy_s=5.0)
    bad = {"mode": "fail"}


class ProviderResets(_CloudFault):
    name = "provider_reset"
    what = "the provider does the work, and resets the connection in the middle of the answer"
    expected = Expected(cut=0.3, refused=0.6, healthy_s=5.0)
    bad = {"mode": "reset"}


class ProviderHangs(_CloudFault):
    name = "provider_hangs"
    what = "the provider accepts and never answers; it does no work and asks for nothing"
    # What a request cost whose answer never came is not known: its price is booked.
    expected = Expected(refused=0.6, gap_s=1.0, healthy_s=5.0, overbooked=1.0)
    bad = {"mode": "hang"}


class ExpiredCertificate(_CloudFault):
    name = "tls_expired"
    what = "the provider's certificate expires and is renewed"
    expected = Expected(refused=0.6, healthy_s=5.0)
    bad = {"mode": "expired"}

    async def met(self, stage: Stage, load: Load, metrics: Metrics) -> float:
        return self._unready

    async def inject(self, stage: Stage, load: Load) -> None:
        await super().inject(stage, load)
        await asyncio.sleep(self.lasts_s / 2)
        breaker = (await stage.metrics()).total("overspill_breaker_state", backend="cloud")
        self._unready = breaker

    def why_not(self) -> str | None:
        return None if importlib.util.find_spec("cryptography") else "needs the package cryptography"

    async def prepare(self, stage: Stage) -> None:
        authority = write_certificates(stage.folder, stage.clock)
        cloud = stage.cloud(stage.upstream("cloud", "--tls", str(stage.folder)))
        tiers = {"fleet": stage.fleet(stage.upstream("one"), slots=1), "cloud": cloud}
        stage.open_gateway(stage.document(tiers), env={"SSL_CERT_FILE": str(authority)})


class _RunPodFault(Misled):
    """A RunPod endpoint alone."""

    who = "runpod"
    rate = 20.0
    rented = ("runpod",)

    async def prepare(self, stage: Stage) -> None:
        stage.open_gateway(stage.document({"runpod": stage.runpod_tier(stage.runpod("runpod"))}))

    async def met(self, stage: Stage, load: Load, metrics: Metrics) -> float:
        return float((await asyncio.to_thread(stage.asked, "runpod", "/chaos"))["met"])


class AlwaysCold(_RunPodFault):
    name = "provider_cold"
    what = "every worker of the provider is gone after its call, so that each call starts one"
    # The file says that workers idle for two seconds, which are booked; these end before.
    expected = Expected(refused=0.6, gap_s=2.0, healthy_s=4.0, books=0.05, overbooked=0.7)
    bad = {"idle_after_s": 0.0}
    good = {"idle_after_s": 2.0}

    async def met(self, stage: Stage, load: Load, metrics: Metrics) -> float:
        return sum(each.fields.get(b"x-overspill-start") == b"cold" for each in load.asked)


class CompletedLate(_RunPodFault):
    name = "completed_late"
    what = "the provider says COMPLETED 1.5 s after it is so"
    expected = Expected(refused=0.6, gap_s=2.5, healthy_s=4.0, books=0.05, overbooked=0.4)
    bad = {"late_s": 1.5}
    good = {"late_s": 0.0}


class CompletedTwice(_RunPodFault):
    name = "completed_twice"
    what = "the provider sends every answer that says COMPLETED twice on the connection"
    # A second answer that takes another one's place costs that one its answer, and what it says of its bill.
    expected = Expected(refused=0.15, gap_s=2.0, healthy_s=3.0, books=0.3, overbooked=0.3)
    bad = {"twice": True}
    good = {"twice": False}


PROVIDER_FAULTS: tuple[type[Fault], ...] = (
    RefusalStorm,
    FailureStorm,
    ProviderResets,
    ProviderHangs,
    ExpiredCertificate,
    AlwaysCold,
    CompletedLate,
    CompletedTwice,
)
