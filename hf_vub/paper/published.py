"""The numbers in Tables 1 and 2 of the paper."""

from dataclasses import dataclass

Spread = tuple[float, float]
"""Mean and standard deviation over five runs."""


@dataclass(frozen=True)
class PublishedTable:
    """One table of the paper, by the names that this package's tables give to its columns.

    Attributes:
        where: the data set.
        vanilla: the stock classifier's row.
        vib: rows of the VIB models by beta.
        vub: rows of the VUB models by beta.
    """

    where: str
    vanilla: dict[str, float]
    vib: dict[float, dict[str, Spread]]
    vub: dict[float, dict[str, Spread]]

    def best(self, objective: str, column: str) -> float:
        """Return the mean in a column at the beta with the highest accuracy."""
        rows = self.vib if objective == "vib" else self.vub
        return max(rows.values(), key=lambda row: row["accuracy"][0])[column][0]


PUBLISHED = {
    "text": PublishedTable(
        where="IMDB",
        vanilla={"accuracy": 0.930, "DWB": 0.543, "PWWS": 1.0},
        vib={
            1e-3: {"accuracy": (0.910, 0.010), "DWB": (0.351, 0.044), "PWWS": (0.416, 0.066)},
            1e-2: {"accuracy": (0.908, 0.005), "DWB": (0.410, 0.048), "PWWS": (0.629, 0.143)},
            1e-1: {"accuracy": (0.894, 0.009), "DWB": (0.900, 0.080), "PWWS": (0.991, 0.009)},
        },
        vub={
            1e-3: {"accuracy": (0.932, 0.005), "DWB": (0.275, 0.020), "PWWS": (0.284, 0.013)},
            1e-2: {"accuracy": (0.926, 0.008), "DWB": (0.308, 0.020), "PWWS": (0.500, 0.048)},
            1e-1: {"accuracy": (0.892, 0.020), "DWB": (0.992, 0.005), "PWWS": (1.0, 0.0)},
        },
    ),
    "image": PublishedTable(
        where="ImageNet",
        vanilla={"accuracy": 0.772, "FGS 0.1": 0.689, "FGS 0.5": 0.677, "CW": 788.0},
        vib={
            1e-3: {"accuracy": (0.737, 0.01), "FGS 0.1": (0.595, 0.02), "FGS 0.5": (0.639, 0.02), "CW": (3917, 291)},
            1e-2: {"accuracy": (0.728, 0.01), "FGS 0.1": (0.535, 0.02), "FGS 0.5": (0.620, 0.01), "CW": (3318, 293)},
            1e-1: {"accuracy": (0.721, 0.001), "FGS 0.1": (0.584, 0.01), "FGS 0.5": (0.620, 0.01), "CW": (3318, 293)},
        },
        vub={
            1e-3: {"accuracy": (0.755, 0.0003), "FGS 0.1": (0.628, 0.01), "FGS 0.5": (0.664, 0.01), "CW": (2666, 140)},
            1e-2: {"accuracy": (0.750, 0.0005), "FGS 0.1": (0.576, 0.02), "FGS 0.5": (0.643, 0.01), "CW": (1564, 218)},
            1e-1: {"accuracy": (0.748, 0.0009), "FGS 0.1": (0.579, 0.05), "FGS 0.5": (0.648, 0.05), "CW": (3575, 456)},
        },
    ),
}
"""By task. CW is an L2 distance in the paper's own unit; every other number is a share."""
