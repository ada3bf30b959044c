"""The recipes of docs/cookbook.md that no case of the conformance suite has; the parameter `recipe` says which."""

from recipes import RECIPES, Parameters
from watchfire_rule import Batch, Rule, RuleError, Subscription


class Cookbook(Rule):
    """Recipes of the cookbook."""

    name = "cookbook"
    version = "0.1.0"
    state_version = 1
    parameters: Parameters

    def start(self) -> Subscription:
        recipe = RECIPES.get(self.parameters.recipe)
        if recipe is None:
            raise RuleError(f"there is no recipe {self.parameters.recipe}")
        self.recipe = recipe()
        self.recipe.parameters = self.parameters
        self.recipe.subscription = self.recipe.start()
        self.states = self.recipe.states
        return self.recipe.subscription

    def on_batch(self, batch: Batch) -> None:
        self.recipe.on_batch(batch)
