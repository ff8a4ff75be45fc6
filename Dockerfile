# The service, and what operates it: docker run IMAGE serve | migrate | keys | retention | doctor | ...
FROM python:3.12.8-slim-bookworm AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY bandit_router bandit_router
COPY feedback feedback
COPY simulations simulations
COPY migrations migrations
RUN pip wheel --no-cache-dir --wheel-dir /wheels '.[service,postgres,redis,http,fitted,otel,archive]'

FROM python:3.12.8-slim-bookworm
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links /wheels 'bandit-router[service,postgres,redis,http,fitted,otel,archive]' \
    && useradd --system --uid 10001 --create-home --home-dir /var/lib/bandit-router router
USER 10001
# The only place that is written to, beside /tmp: decisions wait here for a log that is away, and an embedded
# log is kept here when no other is named.
WORKDIR /var/lib/bandit-router
VOLUME /var/lib/bandit-router
ENV PYTHONUNBUFFERED=1 BANDIT_ROUTER_HOST=0.0.0.0 BANDIT_ROUTER_PORT=8080 \
    BANDIT_ROUTER_LOG_FORMAT=json BANDIT_ROUTER_JOURNAL=/var/lib/bandit-router/journal
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8080/healthz', timeout=2)"]
ENTRYPOINT ["bandit-router"]
CMD ["serve"]
