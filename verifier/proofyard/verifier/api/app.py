"""The routes: `/`, a page for people; `/health`, `/ready`, `/metrics`; and what is versioned under `/v1`."""

from fastapi import Depends, FastAPI

from proofyard.verifier.api.answering import Api
from proofyard.verifier.api.batches import add_batches
from proofyard.verifier.api.bounds import Bounded, answer_errors
from proofyard.verifier.api.declaring import describe, only_known
from proofyard.verifier.api.jobs import add_jobs
from proofyard.verifier.api.live import add_live
from proofyard.verifier.api.network import add_network
from proofyard.verifier.api.page import add_page
from proofyard.verifier.api.service import add_service


def build_app(api: Api) -> FastAPI:
    app = FastAPI(
        title="Proofyard verifier", version="1", docs_url=None, redoc_url=None, dependencies=[Depends(only_known)]
    )
    answer_errors(app)
    for add in (add_page, add_service, add_jobs, add_batches, add_network, add_live):
        add(app, api)
    describe(app)
    app.add_middleware(Bounded, api=api)
    return app
