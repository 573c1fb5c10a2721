"""The names of a control-plane node's metrics, all in one place."""

from mesh import obs
from mesh.obs import Metric

REQUESTS = Metric("holdfast_controlplane_requests", "Requests answered.", ("method", "route", "status"))
SECONDS = Metric("holdfast_controlplane_request_seconds", "Time to the end of the answer.", ("method", "route"))
APPLIED = Metric("holdfast_controlplane_applied_objects", "Objects by what an apply did with them.", ("action",))
REGISTERED = Metric("holdfast_controlplane_registered_instances", "Instances in registrations.", ("outcome",))
WATCHES = Metric("holdfast_controlplane_watches", "Watch requests that are open.")
UPLINKS = Metric("holdfast_controlplane_uplinks", "Agents connected to this replica.")
LEADING = Metric("holdfast_controlplane_leading", "1 on the replica that leads.")
CONNECTED = Metric("holdfast_controlplane_store_connected", "1 while the store's watch is open.")
REVISION = Metric("holdfast_controlplane_store_revision", "Newest revision seen.")
UNREADABLE = Metric("holdfast_controlplane_store_unreadable_values", "Values in the store that cannot be read.")
ISSUER_END = Metric(
    "holdfast_controlplane_intermediate_end_timestamp_seconds", "When this replica's intermediate ends."
)


class Metrics:
    content_type = obs.Metrics.content_type

    def __init__(self) -> None:
        self._set = made = obs.Metrics(process=True)
        self.requests = made.counter(REQUESTS)
        self.seconds = made.histogram(SECONDS)
        self.applied = made.counter(APPLIED)
        self.registered = made.counter(REGISTERED)
        self.watches = made.gauge(WATCHES)
        self.uplinks = made.gauge(UPLINKS)
        self.leading = made.gauge(LEADING)
        self.connected = made.gauge(CONNECTED)
        self.revision = made.gauge(REVISION)
        self.unreadable = made.gauge(UNREADABLE)
        self.issuer_end = made.gauge(ISSUER_END)

    def page(self) -> bytes:
        return self._set.page()
