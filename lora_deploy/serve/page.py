"""The one page for people: what can be asked, in plain HTML without a script."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>lora-deploy serve</title>
<style>
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 46rem; margin: 2rem auto; padding: 0 1rem; }
pre { overflow-x: auto; padding: 0.75rem; border: 1px solid GrayText; border-radius: 0.5rem; }
td { padding: 0.2rem 1rem 0.2rem 0; vertical-align: top; }
</style>
</head>
<body>
<h1>lora-deploy serve</h1>
<p>Send a video, get what happens in it.</p>
<pre>curl -F file=@clip.mp4 ADDRESS/v1/classify
curl -H "content-type: video/mp4" --data-binary @clip.mp4 "ADDRESS/v1/classify?top_k=3"</pre>
<table>
<tr><td><code>POST /v1/classify</code></td><td>a video, as the file of a form or as the body; <code>top_k</code>,
<code>start</code> and <code>end</code> (seconds) in the address</td></tr>
<tr><td><code>GET /v1/model</code></td><td>labels, what the model sees, what was proved</td></tr>
<tr><td><code>GET /healthz</code></td><td>the process lives</td></tr>
<tr><td><code>GET /readyz</code></td><td>a clip would be answered</td></tr>
<tr><td><code>GET /metrics</code></td><td>for Prometheus</td></tr>
<tr><td><code>GET <a href="openapi.json">/openapi.json</a></code></td><td>all of this for programs</td></tr>
</table>
</body>
</html>
"""
