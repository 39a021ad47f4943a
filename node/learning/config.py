"""The ``learning`` part of an experiment file. Declarations only; torch is not imported
here."""

from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field

from node.config_base import ConfigModel
from node.core.bounds import COUNT_MAX
from node.core.errors import ConfigError

# --- data sets ------------------------------------------------------------


PLAIN = "plain feature vectors"


class DatasetBase(ConfigModel):
    """Facts about a data set that its kind decides, so that nothing else has to know the kinds.

    Attributes:
        shape: The samples: an image's channels, height and width, :data:`PLAIN` or ``ratings``; empty if only its files
            tell.
        title: Its name for people; empty where nothing has to be looked for.
        files: Patterns below the data root, of which one must be there; empty where nothing has to be looked for.
    """

    shape: ClassVar[str] = ""
    title: ClassVar[str] = ""
    files: ClassVar[tuple[str, ...]] = ()

    @property
    def is_ratings(self) -> bool:
        """True where samples are ratings of items by users, not classes."""
        return self.shape == "ratings"


class DigitsConfig(DatasetBase):
    """Handwritten digits that ship inside scikit-learn: 1,797 images of 1x8x8, 10 classes. Needs no
    download."""

    shape = "1x8x8"

    kind: Literal["digits"] = "digits"
    max_train_samples: int | None = Field(
        default=None, ge=1, le=COUNT_MAX, description="Use a random subset of this size."
    )


class Cifar10Config(DatasetBase):
    """CIFAR-10: 50,000 training and 10,000 test images of 3x32x32, 10 classes."""

    shape = "3x32x32"
    title = "CIFAR-10"
    files = ("cifar-10-batches-py", "cifar-10-python.tar.gz", "cifar10-imagefolder*")

    kind: Literal["cifar10"] = "cifar10"
    max_train_samples: int | None = Field(
        default=None, ge=1, le=COUNT_MAX, description="Use a random subset of this size."
    )


class ImageFolderConfig(DatasetBase):
    """Images of one size in ``train|test/<class>/``, in a directory or a tar file, of the formats that torchvision's
    ImageFolder reads. What is left out is counted and told."""

    kind: Literal["image_folder"] = "image_folder"
    path: str = Field(min_length=1, description="Directory or .tar[.gz|.xz]; relative to the data root.")
    max_train_samples: int | None = Field(
        default=None, ge=1, le=COUNT_MAX, description="Use a random subset of this size."
    )


class MovieLensConfig(DatasetBase):
    """MovieLens ``ml-latest-small``: 100,836 ratings of 9,724 films by 610 users."""

    shape = "ratings"
    title = "MovieLens"
    files = ("ml-latest-small/ratings.csv", "ratings.csv")

    kind: Literal["movielens"] = "movielens"


class SyntheticConfig(DatasetBase):
    """Gaussian clouds, one per class."""

    shape = PLAIN

    kind: Literal["synthetic"] = "synthetic"
    samples: int = Field(default=2000, ge=1, le=10_000_000, description="Training samples.")
    test_samples: int = Field(default=500, ge=1, le=10_000_000, description="Test samples.")
    features: int = Field(default=20, ge=1, le=100_000, description="Numbers in a sample.")
    classes: int = Field(default=10, ge=2, le=100_000, description="Number of classes.")
    noise: float = Field(
        default=1.0, ge=0, le=1000, description="Standard deviation around a class's centre (centres have 1)."
    )


class SyntheticRatingsConfig(DatasetBase):
    """Ratings made from hidden factors, rounded to halves in [0.5, 5]."""

    shape = "ratings"

    kind: Literal["synthetic_ratings"] = "synthetic_ratings"
    users: int = Field(default=60, ge=1, le=10_000_000, description="Number of users.")
    items: int = Field(default=100, ge=2, le=10_000_000, description="Number of items.")
    ratings_per_user: int = Field(default=20, ge=2, le=100_000, description="Ratings by each user, <= items.")
    hidden_factors: int = Field(default=4, ge=1, le=100_000, description="Rank of the hidden model.")
    noise: float = Field(default=0.25, ge=0, le=1000, description="Standard deviation added to a rating.")


DatasetConfig: TypeAlias = Annotated[
    DigitsConfig | Cifar10Config | ImageFolderConfig | MovieLensConfig | SyntheticConfig | SyntheticRatingsConfig,
    Field(discriminator="kind"),
]


# --- models ------------------------------------------------------------


class GNLeNetConfig(ConfigModel):
    """The CIFAR-10 network of DivShare and decentralizepy; 89,834 parameters with 10 classes. Images of
    3x32x32."""

    kind: Literal["gn_lenet"] = "gn_lenet"


class CNNConfig(ConfigModel):
    """Two 3x3 convolutions with pooling and a linear layer; fits images of any size from 4x4."""

    kind: Literal["cnn"] = "cnn"
    channels: int = Field(
        default=16,
        ge=1,
        le=1024,
        description="Channels of the first convolution; the second has twice as many.",
    )


class LogisticRegressionConfig(ConfigModel):
    """One linear layer; fits any classification data set."""

    kind: Literal["logistic_regression"] = "logistic_regression"


class MatrixFactorizationConfig(ConfigModel):
    """Two embedding tables without biases; a rating is a dot product. 206,680 parameters on MovieLens."""

    kind: Literal["matrix_factorization"] = "matrix_factorization"
    factors: int = Field(default=20, ge=1, le=100_000, description="Numbers per user and per item.")


ModelConfig: TypeAlias = Annotated[
    GNLeNetConfig | CNNConfig | LogisticRegressionConfig | MatrixFactorizationConfig,
    Field(discriminator="kind"),
]


# --- partitions ------------------------------------------------------------


class IIDConfig(ConfigModel):
    """Samples shuffled and dealt in equal shares."""

    kind: Literal["iid"] = "iid"


class KShardsConfig(ConfigModel):
    """``shards`` random segments of the label-sorted samples per node, as in decentralizepy."""

    kind: Literal["k_shards"] = "k_shards"
    shards: int = Field(default=5, ge=1, le=COUNT_MAX, description="Segments per node; fewer means more skewed.")


class DirichletConfig(ConfigModel):
    """Each class is dealt in proportions drawn from Dirichlet(alpha)."""

    kind: Literal["dirichlet"] = "dirichlet"
    alpha: float = Field(gt=0, le=1e6, description="Concentration; smaller means more skewed.")
    law: Literal["plain", "balanced"] = Field(
        default="plain",
        description="plain draws each class on its own; balanced, that of decentralizepy and Epidemic Learning, deals"
        " nothing more to a node that has its equal share, and draws until every node has a sample for each class.",
    )


class ByUserConfig(ConfigModel):
    """Ratings only: users are dealt to nodes in contiguous ranges, and each node is tested on its own
    users."""

    kind: Literal["by_user"] = "by_user"


PartitionConfig: TypeAlias = Annotated[
    IIDConfig | KShardsConfig | DirichletConfig | ByUserConfig,
    Field(discriminator="kind"),
]


# --- training ------------------------------------------------------------


class OptimizerConfig(ConfigModel):
    """Stochastic gradient descent as in torch: ``v = momentum * v + g + weight_decay * x; x -=
    learning_rate * v``."""

    learning_rate: float = Field(
        default=0.05, ge=0, le=1000, description="0 is allowed: nothing is learned, everything is sent."
    )
    momentum: float = Field(default=0.0, ge=0, lt=1, description="Stays on the node; only the model is exchanged.")
    weight_decay: float = Field(default=0.0, ge=0, le=1000, description="Factor of the L2 penalty's gradient.")


class LearningConfig(ConfigModel):
    """Data, model, split and local training."""

    dataset: DatasetConfig = DigitsConfig()
    model: ModelConfig = CNNConfig()
    partition: PartitionConfig = IIDConfig()
    batch_size: int = Field(
        default=8, ge=1, le=1_000_000, description="Samples per local step; the last of an epoch may be smaller."
    )
    reshuffle: Literal["epoch", "round"] = Field(
        default="epoch",
        description="When samples are shuffled anew: epoch goes through all of them before that, across rounds; round"
        " also begins each round with a new shuffle and drops what was left, as decentralizepy does.",
    )
    optimizer: OptimizerConfig = OptimizerConfig()
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="bfloat16 runs the layers under autocast; parameters and exchange stay float32.",
    )


def check_compatible(learning: LearningConfig) -> None:
    """Refuse models and partitions that cannot fit the data set, as far as that is known without loading it.

    Raises:
        ConfigError: One line with the key, its value and what it needs.
    """
    dataset, model, partition = learning.dataset, learning.model, learning.partition
    ratings = dataset.is_ratings
    data = f"learning.dataset.kind={dataset.kind}"
    if ratings != (model.kind == "matrix_factorization"):
        wanted = "matrix_factorization" if ratings else "a model for classification, not matrix_factorization"
        raise ConfigError(f"learning.model.kind={model.kind}: {data} needs {wanted}")
    if model.kind == "gn_lenet" and dataset.shape not in ("3x32x32", ""):
        raise ConfigError(f"learning.model.kind=gn_lenet: needs images of 3x32x32, but {data} has {dataset.shape}")
    if model.kind == "cnn" and dataset.shape == PLAIN:
        raise ConfigError(f"learning.model.kind=cnn: needs images, but {data} has {PLAIN}")
    if partition.kind == "by_user" and not ratings:
        raise ConfigError(f"learning.partition.kind=by_user: needs ratings, but {data} has none")
    if partition.kind in ("k_shards", "dirichlet") and ratings:
        raise ConfigError(f"learning.partition.kind={partition.kind}: needs class labels, but {data} has ratings")
    if isinstance(dataset, SyntheticRatingsConfig) and dataset.ratings_per_user > dataset.items:
        raise ConfigError(
            f"learning.dataset.ratings_per_user={dataset.ratings_per_user}: "
            f"must be at most learning.dataset.items={dataset.items}"
        )
