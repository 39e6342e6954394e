"""What stands on a page where a notebook has shown widgets: a still picture, made from the state that is saved in the notebook."""
import html

VIEW, STATE = "application/vnd.jupyter.widget-view+json", "application/vnd.jupyter.widget-state+json"


def saved(notebook):
    "{id: state} of the widgets that were saved in a notebook, a dict."
    return notebook["metadata"].get("widgets", {}).get(STATE, {}).get("state", {})


def chosen(state):
    "The value of a control, as one reads it."
    labels = state.get("_options_labels")
    value = labels[state["index"]] if labels else state.get("value", "")
    return f"{value:g}" if isinstance(value, float) else str(value)


def still(model, widgets):
    "HTML of one widget and of those inside it."
    widget, state = widgets[model], widgets[model]["state"]
    kind = widget["model_name"].removesuffix("Model")
    if "children" in state: return "\n".join(still(child.removeprefix("IPY_MODEL_"), widgets) for child in state["children"])
    if kind == "HTML": return state["value"]
    if kind == "Image": return f'<img alt="What these settings give" src="data:image/{state["format"]};base64,{widget["buffers"][0]["data"]}">'
    words = html.escape(chosen(state))
    if kind == "Textarea": return f"<blockquote>{words}</blockquote>"
    return f'<span class="set">{html.escape(state.get("description", ""))} <b>{words}</b></span>'


def on_a_page(model, widgets, moves_above):
    "A widget's still picture and where it can be moved; `moves_above`: the page has an interactive picture of its own."
    if model not in widgets: return '<div class="widget"><p>Interactive: run the notebook to try it.</p></div>'
    where = "Run the notebook to move it" + ("; the picture further up moves on this page." if moves_above else ".")
    return f'<div class="widget">\n{still(model, widgets)}\n<p>{where}</p>\n</div>'
