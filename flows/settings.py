"""What the environment says: the only module that reads it. Every field is a variable SHRINK_<NAME>."""

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from registry.records import ShrinkError

HUB = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}  # nothing is fetched


class Settings(BaseSettings):
    """Where state lives and what the machine is allowed; all have defaults that work on one machine."""

    model_config = SettingsConfigDict(env_prefix="SHRINK_", frozen=True, extra="ignore", env_ignore_empty=True)
    home: Path = Field(default=Path(".shrink"), description="directory of all local state")
    threads: int = Field(default=2, ge=1, le=64, description="compute threads of a stage; part of every cache key")
    processes: int = Field(default=1, ge=1, le=64, description="processes that share a training; they share threads")
    precision: Literal["auto", "fp32", "bf16"] = Field(default="fp32", description="of a training's products")
    device: Literal["cpu", "cuda"] = Field(default="cpu", description="where trainings run")
    time_limit: float = Field(default=7200, gt=0, description="seconds after which a stage is ended")
    memory_mb: float | None = Field(default=None, gt=0, description="MB at which a stage is ended; null: 9/10 of all")
    signing_key: Path | None = Field(default=None, description="private key that signs; null: the one of `shrink up`")
    trusted_keys: str | None = Field(default=None, description="files of public keys whose signatures are believed")
    token: str | None = Field(default=None, min_length=16, description="what requests to `shrink deploy` must bear")
    token_file: Path | None = Field(default=None, description="a file that holds that token")
    meter_slot: Path | None = Field(default=None, description="lock file of who meters this machine; null: the common")
    country: str | None = Field(default=None, description="ISO 3166 alpha-3 code of the grid, for gCO2e")
    carbon: Path | None = Field(default=None, description="YAML file: factors, PUE, water, prices and the like")


def settings() -> Settings:
    """The settings of this process, with an absolute home; raises ShrinkError for a variable that will not do."""
    try:
        read = Settings()
    except ValidationError as error:
        wrong = error.errors()[0]
        name, said = f"SHRINK_{wrong['loc'][0]}".upper(), wrong["msg"].removeprefix("Input should be ")
        raise ShrinkError(f"{name} is {wrong['input']!r} but must be {said}; change or unset it.") from None
    return read.model_copy(update={"home": read.home.absolute()})


def base_environment() -> dict[str, str]:
    """This process's environment, for handing on to the servers."""
    return dict(os.environ)


def apply(environment: dict[str, str], foreign: tuple[str, ...] = ()) -> None:
    """Set variables that libraries (Prefect, MLflow) read, in place of all that begin so; call before importing them.

    The caller's own profile, token or run id of another server would else be taken for ours.
    """
    for name in [name for name in os.environ if name.startswith(foreign)]:
        del os.environ[name]
    os.environ.update(environment)


def worker_environment(threads: int) -> dict[str, str]:
    """The environment of a stage's process: no secrets, bounded threads, nothing fetched from a hub."""
    secret = ("AWS_", "MLFLOW_", "PREFECT_", "SHRINK_SIGNING_")
    launched = ("ACCELERATE_", "TORCHELASTIC_", "WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_", "OMPI_", "PMI_", "MV2_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(secret + launched)}
    return inherited | {
        **HUB,
        "PYTHONSAFEPATH": "1",
        "ORT_DISABLE_TELEMETRY": "1",  # else importing onnxruntime starts threads, which a fork does not survive
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",  # threads that wait for each other sleep: spinning, a busy machine is 10x slower
        "OPENBLAS_NUM_THREADS": str(threads),
        "GLOO_SOCKET_IFNAME": "lo",  # processes that share a training talk on loopback
        "NCCL_SOCKET_IFNAME": "lo",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # torchrun's server would listen on every address
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # else products on a GPU differ from run to run
    }


def serving_environment(threads: int) -> dict[str, str]:
    """The environment of a process that answers for a version: a stage's, without the server's secrets."""
    kept = worker_environment(threads)
    return {name: value for name, value in kept.items() if not name.startswith(("SHRINK_TOKEN", "SHRINK_SIGNING"))}
