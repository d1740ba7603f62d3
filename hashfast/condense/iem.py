"""Information-intensive feature-embedding matching."""

from typing import Any

from hashfast.condense.dm import DM


class IEM(DM):
    """DM with network augmentation and dataset augmentation (multi-formation).

    Feng et al., "Towards Efficient Deep Hashing Retrieval: Condensing Your Data via
    Feature-Embedding Matching" (ICASSP): random networks are perturbed (eq. 4), every stored
    image holds factor x factor smaller ones (eq. 5 and 6), features are matched as in DM (eq. 7).
    With network_pool="pretrained" it is the version of the preprint, whose
    networks are trained for some epochs on the hashing loss before they are perturbed.
    """

    summary = "DM with perturbed networks and several images stored in one"
    steps_by_class = True

    @classmethod
    def defaults(cls, ipc: int) -> dict[str, Any]:
        return {
            "factor": 2,
            "networks": 200,
            "inner_steps": 300,
            "network_augmentation": True,
            "network_pool": "random",
            "learning_rate": 0.005,
            "scale_learning_rate": False,
            "augment": "idc",
        }
