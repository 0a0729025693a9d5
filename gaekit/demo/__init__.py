"""A local page to try a run with: samples by class, reconstructions, noise on a latent (`gaekit demo`).

`actions` does what the page asks for and knows nothing of it, `page` lays it out, `server` serves it to this machine
alone. The page is gradio's, from the extra `demo`, and is imported when it is served.
"""
