"""Set-up and health of etcd itself: users, roles, authentication, members. For `init`, `doctor` and tests.

Everything may be repeated: what is already so is left alone. Users have no passwords; a client certificate's CN names
its user.
"""

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from aetcd.rpc import auth_pb2 as auth
from aetcd.rpc import rpc_pb2 as rpc
from aetcd.rpc import rpc_pb2_grpc as stubs

from mesh import keys
from mesh.model import Revision
from mesh.store.errors import Refused, StoreError
from mesh.store.etcd.members import Members, Tls

ROOT = "root"


class Role(NamedTuple):
    """One user with a role of the same name: this right on this prefix, and nothing else."""

    prefix: str
    write: bool


HOLDFAST: Mapping[str, Role] = {
    "holdfast-controlplane": Role(keys.ALL, write=True),
    "holdfast-gate": Role(keys.MESH, write=False),
}


class MemberStatus(NamedTuple):
    endpoint: str
    version: str
    """Empty: it did not answer, and `problems` says why."""
    leader: bool
    learner: bool
    revision: int
    database_bytes: int
    problems: tuple[str, ...]


class EtcdAdmin:
    """Needs a certificate of user root. Who opens it closes it."""

    def __init__(self, endpoints: Sequence[str], *, tls: Tls, server_name: str = "etcd", timeout: float = 5.0) -> None:
        self._each = {
            e: Members([e], tls=tls, server_name=server_name, timeout=timeout, rng=random.Random()) for e in endpoints
        }
        self._members = Members(endpoints, tls=tls, server_name=server_name, timeout=timeout, rng=random.Random())

    async def ensure_users(self, users: Mapping[str, Role] = HOLDFAST) -> None:
        """Make root and these users, each with exactly its role's right."""
        await self._ensure_user(ROOT)
        await self._auth("UserGrantRole", rpc.AuthUserGrantRoleRequest(user=ROOT, role=ROOT))
        for name, role in users.items():
            await self._ensure_user(name)
            await self._ensure_role(name, role)
            await self._auth("UserGrantRole", rpc.AuthUserGrantRoleRequest(user=name, role=name))

    async def enable_auth(self) -> None:
        """From here on every call needs a user. Repeated, it changes nothing."""
        await self._auth("AuthEnable", rpc.AuthEnableRequest())

    async def auth_enabled(self) -> bool:
        return bool((await self._auth("AuthStatus", rpc.AuthStatusRequest())).enabled)

    async def status(self) -> tuple[MemberStatus, ...]:
        """How each member is, in the order of the endpoints. Never raises StoreError: what fails is a problem."""
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(self._status(endpoint, member)) for endpoint, member in self._each.items()]
        return tuple(task.result() for task in asked)

    async def compact(self, revision: Revision) -> None:
        """Forget the history before this revision."""
        request = rpc.CompactionRequest(revision=revision, physical=True)
        await self._members.call(stubs.KVStub, "Compact", request, repeatable=True, what="compact")

    async def close(self) -> None:
        await self._members.close()
        for member in self._each.values():
            await member.close()

    async def _status(self, endpoint: str, member: Members) -> MemberStatus:
        try:
            answer = await member.call(
                stubs.MaintenanceStub, "Status", rpc.StatusRequest(), repeatable=True, what="status"
            )
        except StoreError as exc:
            return MemberStatus(
                endpoint, "", leader=False, learner=False, revision=0, database_bytes=0, problems=(str(exc),)
            )
        said = answer.message
        problems = tuple(said.errors) + (() if said.leader else ("it sees no leader",))
        return MemberStatus(
            endpoint,
            said.version,
            leader=said.leader == said.header.member_id,
            learner=said.isLearner,
            revision=said.header.revision,
            database_bytes=said.dbSize,
            problems=problems,
        )

    async def _ensure_user(self, name: str) -> None:
        options = auth.UserAddOptions(no_password=True)
        await self._auth(
            "UserAdd", rpc.AuthUserAddRequest(name=name, options=options), exists="user name already exists"
        )

    async def _ensure_role(self, name: str, role: Role) -> None:
        await self._auth("RoleAdd", rpc.AuthRoleAddRequest(name=name), exists="role name already exists")
        wanted = auth.Permission(
            permType=auth.Permission.READWRITE if role.write else auth.Permission.READ,
            key=role.prefix.encode(),
            range_end=keys.prefix_end(role.prefix),
        )
        held = await self._auth("RoleGet", rpc.AuthRoleGetRequest(role=name))
        for permission in held.perm:
            if permission != wanted:
                request = rpc.AuthRoleRevokePermissionRequest(
                    role=name, key=permission.key, range_end=permission.range_end
                )
                await self._auth("RoleRevokePermission", request)
        if wanted not in list(held.perm):
            await self._auth("RoleGrantPermission", rpc.AuthRoleGrantPermissionRequest(name=name, perm=wanted))

    async def _auth(self, method: str, request: object, *, exists: str = "") -> Any:
        # All of these leave the same state however often they run, so they may be sent again.
        try:
            answer = await self._members.call(stubs.AuthStub, method, request, repeatable=True, what=f"etcd {method}")
        except Refused as exc:
            if exists and exists in str(exc):
                return None
            raise
        return answer.message
