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
SIGNER_UP = Metric("holdfast_controlplane_signer_up", "1 if this replica's signer answered when last asked.")
PEER_CONNECTED = Metric("holdfast_controlplane_peer_connected", "1 while a session is in step.", ("peer",))
PEER_LOST = Metric("holdfast_controlplane_peer_lost_seconds", "Time without a session; 0: there is one.", ("peer",))
PEER_IMPORTED = Metric("holdfast_controlplane_peer_imported", "What is held of the peer.", ("peer", "what"))
PEER_EXPORTED = Metric("holdfast_controlplane_peer_exported_services", "Services the peer may know.", ("peer",))
PEER_REFUSED = Metric("holdfast_controlplane_peer_refused_items", "Items of the peer's offer not taken.", ("peer",))
PEER_OFFER = Metric(
    "holdfast_controlplane_peer_offer_seconds", "From an offer's arrival to the store, at the leader.", ("peer",)
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
        self.signer_up = made.gauge(SIGNER_UP)
        self.peer_connected = made.gauge(PEER_CONNECTED)
        self.peer_lost = made.gauge(PEER_LOST)
        self.peer_imported = made.gauge(PEER_IMPORTED)
        self.peer_exported = made.gauge(PEER_EXPORTED)
        self.peer_refused = made.gauge(PEER_REFUSED)
        self.peer_offer = made.histogram(PEER_OFFER)

    def page(self) -> bytes:
        return self._set.page()
