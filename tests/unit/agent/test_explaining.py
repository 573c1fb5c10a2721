"""Questions of `holdfast explain` at a host: answered one after the other, so many at the most."""

import asyncio
import threading

import msgspec
import pytest

from agent import explaining
from agent.explaining import MAX_WAITING, Explainer, ExplainError
from agent.pipeline import Offer, Pipeline
from mesh import codec
from mesh.model.explained import Called, CallQuestion
from tests.support.waiting import aeventually
from tests.unit.agent.test_runtime import local, policy, svc, world

QUESTION = msgspec.json.encode(
    CallQuestion(name="api", namespace="shop", service="api", service_namespace="shop")
).decode()


class Host:
    """Its answers take until `hold` is set."""

    def __init__(self) -> None:
        pipeline = Pipeline(local())
        pipeline.world = world(svc("api"), policy("web"))
        self._offer = pipeline.compile(pipeline.inputs())
        self.hold, self.at_once, self.most = threading.Event(), 0, 0
        self.explainer = Explainer(self.present)

    def present(self) -> Offer:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        self.hold.wait(10)
        self.at_once -= 1
        return self._offer


def test_many_questions_are_answered_one_after_the_other_and_no_more_than_can_wait():
    async def run():
        host = Host()
        tasks = [asyncio.create_task(host.explainer.call(QUESTION)) for _ in range(MAX_WAITING)]
        await aeventually(lambda: host.at_once == 1)
        with pytest.raises(ExplainError, match="try again"):
            await host.explainer.call(QUESTION)
        host.hold.set()
        answers = [codec.decode_struct(Called, await task) for task in tasks]
        assert {answer.outcomes[0].service for answer in answers} == {"api.shop:80"}
        assert host.most == 1
        assert await host.explainer.call(QUESTION)

    asyncio.run(run())


def test_an_answer_that_nobody_waits_for_any_more_still_counts():
    async def run():
        host = Host()
        given_up = asyncio.create_task(host.explainer.call(QUESTION))
        await aeventually(lambda: host.at_once == 1)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        later = asyncio.create_task(host.explainer.call(QUESTION))
        await asyncio.sleep(0)
        assert host.most == 1
        host.hold.set()
        assert await later
        assert host.most == 1

    asyncio.run(run())


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": 1}'])
def test_a_question_that_cannot_be_read_is_an_error(text):
    with pytest.raises(ExplainError, match="cannot be read"):
        asyncio.run(explaining.Explainer(Host().present).call(text))
