"""The HTML templates of ``orchestrator/templates``."""

import jinja2

from orchestrator.report.text import human, sentence


def template(name: str) -> jinja2.Template:
    """A template by the name of its file; everything put into it is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("orchestrator"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["human"] = human
    environment.filters["sentence"] = sentence
    return environment.get_template(name)
