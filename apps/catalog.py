"""The catalog: which models there are, where each leads, and who may ask for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from llmgw.apps.settings import Settings, deployment_of
from llmgw.errors import GatewayError, NotFoundError, PermissionDeniedError
from llmgw.exchange import Deployment, Exchange
from llmgw.providers import keys
from llmgw.routing import Candidate, Group, order_of

ECHO = "echo"  # the model that is served when nothing else is configured


@attrs.frozen
class Models:
    """Where a model's name leads: the groups of the config, else by the provider's prefix.

    A deployment whose key is missing is no candidate; ``broken`` has the errors that say so, and
    whoever asks for a group of only such gets the first.
    """

    groups: Mapping[str, Group]
    broken: Mapping[str, Sequence[GatewayError]]
    environ: Mapping[str, str] = attrs.field(repr=False)
    open: bool = False  # names outside the groups are served too
    allowed: Mapping[str, frozenset[str]] = attrs.field(factory=dict[str, frozenset[str]])  # by key

    def visible(self, exchange: Exchange) -> list[str]:
        """The models that the client's key may ask for."""
        allowed = self.allowed.get(exchange.key or "")
        return [name for name in self.groups if allowed is None or name in allowed]

    def candidates(self, exchange: Exchange) -> list[Candidate]:
        """The deployments for an exchange, in the order in which they are to be asked.

        Raises PermissionDeniedError; NotFoundError, AuthError when there is none.
        """
        allowed = self.allowed.get(exchange.key or "")
        if allowed is not None and exchange.model not in allowed:
            raise PermissionDeniedError("This key may not use this model.", param="model")
        return self.find(exchange.model or "")

    def find(self, model: str) -> list[Candidate]:
        """The deployments of a model. Raises NotFoundError, AuthError when a key is missing."""
        if model in self.groups:
            if found := order_of(self.groups, model):
                return found
            raise self.broken[model][0]
        if not self.open or model == ECHO:
            raise NotFoundError("This model is not served here.", param="model")
        return [Candidate(keys.resolve(model, self.environ), model)]

    @property
    def summary(self) -> str:
        """What is served, in one line."""
        providers = keys.configured(self.environ)
        if list(self.groups) == [ECHO] and not providers:
            return "no provider key and no model configured, serving the offline model `echo`"
        named = [", ".join(f"`{name}`" for name in self.groups)] if self.groups else []
        by_prefix = [f"any model of {', '.join(providers)}"] if self.open and providers else []
        return "serving " + ("; ".join([*named, *by_prefix]) or "nothing: no model is configured")

    @property
    def problems(self) -> list[str]:
        """What will fail when it is asked for."""
        return [
            f"model {name!r}: {error.message}"
            for name, errors in self.broken.items()
            for error in errors
        ]

    async def ready(self) -> str | None:
        """For readiness: why no model can be served, None if one can."""
        served = any(group.candidates for group in self.groups.values())
        by_prefix = self.open and keys.configured(self.environ)
        return None if served or by_prefix else "no model can be served"

    @property
    def samples(self) -> list[str]:
        """A model of each group, and of each provider with a key."""
        return [
            *self.groups,
            *(keys.SAMPLES[name] for name in keys.configured(self.environ) if name in keys.SAMPLES),
        ]


def models_of(settings: Settings, environ: Mapping[str, str]) -> Models:
    """The models that the settings and the environment give."""
    known: dict[Deployment, Candidate] = {}  # one in two groups has one load and one health
    groups: dict[str, Group] = {}
    broken: dict[str, list[GatewayError]] = {}
    for model in settings.models:
        candidates: list[Candidate] = []
        for number, wanted in enumerate(model.deployments):
            try:
                found = deployment_of(wanted, environ)
            except GatewayError as exc:
                broken.setdefault(model.name, []).append(exc)
            else:
                made = Candidate(found, f"{model.name}/{number}/{found.name}")
                shared = known.setdefault(found, made)
                candidates.append(attrs.evolve(shared, limit_wait=model.limit_wait_s))
        groups[model.name] = Group(candidates, model.strategy, model.fallbacks)
    if not groups and not keys.configured(environ):
        groups[ECHO] = Group([Candidate(keys.resolve(ECHO, environ), ECHO)])
    wish = settings.server.open_models
    return Models(
        groups,
        broken,
        environ,
        open=not settings.exposed if wish is None else wish,
        allowed={key.name: frozenset(key.models) for key in settings.keys if key.models},
    )
