"""The thin hand of the registry and the leader: runs a plan as one transaction, and tells the View what it learns."""

from collections.abc import Iterable

from controlplane.commit import declare, touched
from controlplane.registry import Plan
from controlplane.view import View
from mesh import keys
from mesh.model import Ref, Revision
from mesh.store.errors import Conflict
from mesh.store.protocol import Compare, Event, Op, Put, Store


class Writer:
    def __init__(self, store: Store, view: View) -> None:
        self._store, self._view = store, view

    async def commit(self, plan: Plan, *, author: str, fence: Compare | None = None) -> Revision:
        """Write all of a plan, declared by its author; with a fence only while the writer leads.

        Raises:
            Conflict: something was not as the plan assumed. The View has been brought up to date: plan again.

        """
        ops = tuple(plan.ops.values())
        totals = {key: await self._store.get(key) for key in touched(ops)}
        compares = [Compare(key, Revision(revision)) for key, revision in plan.compares.items()]
        if fence is not None:
            compares.append(fence)
        transaction = declare(author, compares, ops, totals)
        try:
            revision = await self._store.txn(transaction.compares, transaction.ops)
        except Conflict:
            await self._refresh(compare.key for compare in transaction.compares)
            raise
        self._view.apply(_events(ops, revision), revision)
        return revision

    async def look_up_node(self, name: str) -> None:
        """See a Node that was written a moment ago, by a join perhaps."""
        await self._refresh((keys.key_for(Ref("Node", "", name)), keys.join_of(name)))

    async def _refresh(self, names: Iterable[str]) -> None:
        """Read what was compared, so that the next plan does not wait for the follower."""
        for name in names:
            item = await self._store.get(name)
            event = Event(name, item.value, item.revision, item.created) if item else Event(name, None, Revision(0))
            self._view.apply((event,), event.revision)


def _events(ops: Iterable[Op], revision: Revision) -> Iterable[Event]:
    for op in ops:
        yield Event(op.key, op.value if isinstance(op, Put) else None, revision)
