"""The certificate as a self-contained page that a person can read."""

from html import escape

from lora_deploy.export.verify import Certificate

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem;"
    "color:#1c1c1e}table{border-collapse:collapse;width:100%}td,th{padding:.4rem .6rem;"
    "border-bottom:1px solid #ddd;text-align:left}.yes{color:#0a7d36}.no{color:#b3261e}"
    "small{color:#666}"
)


def certificate_html(certificate: Certificate) -> str:
    """Render ``certificate.json`` as HTML, with no script and nothing loaded from elsewhere."""
    verdict = "Every form answers alike" if certificate.passed else "Not proved"
    rows = "".join(
        f"<tr><td>{escape(' = '.join(link.forms))}</td><td>{link.agreement:.1%}</td>"
        f"<td>{len(link.flips)}</td><td>{link.largest_probability_difference:.1e}</td>"
        f"<td>{link.budget:.0e}</td><td>{_mark(link.passed)}</td></tr>"
        for link in certificate.links
    )
    accuracy = "".join(
        f"<tr><td>{escape(form)}</td><td>{value:.3f}</td></tr>"
        for form, value in certificate.accuracy.items()
    )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width'>"
        f"<title>Certificate</title><style>{_STYLE}</style>"
        f"<h1 class={'yes' if certificate.passed else 'no'}>{verdict}</h1>"
        f"<p>{certificate.clips} clips ({escape(certificate.source)}) went through every form of the model, each from "
        "the video file to the label.</p>"
        "<table><tr><th>forms<th>same label<th>flips<th>largest difference in probability"
        f"<th>budget<th></tr>{rows}</table>{_liveness(certificate)}"
        f"<h2>Accuracy on these clips</h2><table>{accuracy}</table>"
        "<p><small>Validation clips chose the best epoch, so this is no test result.</small></p>"
        f"{_objections(certificate)}</html>\n"
    )


def _mark(passed: bool) -> str:
    return "<b class=yes>holds</b>" if passed else "<b class=no>fails</b>"


def _liveness(certificate: Certificate) -> str:
    liveness = certificate.liveness
    if liveness is None:
        return "<p>There is no adapter: the model was fully fine-tuned.</p>"
    return (
        f"<p>Switching the adapter off, its head kept on, changes logits by up to "
        f"{liveness.largest_logit_difference:.2g} (needed: {liveness.needed:.1g}): "
        f"{_mark(liveness.passed)}</p>"
    )


def _objections(certificate: Certificate) -> str:
    items = [*certificate.objections, *(f"left out: {text}" for text in certificate.left_out)]
    return f"<ul>{''.join(f'<li>{escape(item)}' for item in items)}</ul>" if items else ""
