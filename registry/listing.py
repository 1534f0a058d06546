"""What is registered in MLflow, all of it: a search gives a page at a time."""

from typing import Any

from registry import versions

PAGE = 500


def models(client: Any, page: int = PAGE) -> dict[str, Any]:
    """All registered models by their names, in order."""
    found, token = [], None
    while token != "":
        some = client.search_registered_models(max_results=page, page_token=token)
        found += list(some)
        token = some.token or ""
    return {str(one.name): one for one in sorted(found, key=lambda one: str(one.name))}


def ours(client: Any, name: str) -> bool:
    """Whether a registered model has a version that was registered here: other programs' aliases are theirs."""
    return any(versions.DIGEST_TAG in one.tags for one in client.search_model_versions(f"name = '{name}'"))
