# What a sandbox needs beside the services, and no deployment ever does. From the repository's root:
#   docker build -f deploy/sandbox.Dockerfile --target outside --build-arg TOOL=outside -t canbao/outside:dev .
#   docker build -f deploy/sandbox.Dockerfile --target provision --build-arg TOOL=provision -t canbao/provision:dev .
# outside: the simulators of the payment provider, the SMS gateway and a mail server. provision: makes keys,
# passwords and settings, and then roles, tables, topics and rights. User and packages: as in deploy/Dockerfile.

FROM python:3.13-slim AS packages
ARG TOOL
WORKDIR /packages
COPY requirements.lock deploy/images.toml deploy/pick.py ./
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_DEPS=1 PIP_ONLY_BINARY=:all: PIP_REQUIRE_HASHES=1
RUN python -m venv --without-pip /opt/venv \
    && python pick.py "$TOOL" > tool.lock \
    && python -m pip --python /opt/venv/bin/python install -r tool.lock


FROM python:3.13-slim AS base
RUN useradd --uid 1000 --no-create-home --shell /usr/sbin/nologin canbao \
    && install -d -o canbao -g canbao -m 0700 /run/canbao
WORKDIR /app
COPY --from=packages /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 TZ=UTC


FROM base AS outside
COPY sandbox/__init__.py sandbox/
COPY sandbox/simulators sandbox/simulators
RUN python -m compileall -q /app
USER 1000:1000
EXPOSE 9300
HEALTHCHECK --interval=5s --timeout=4s --start-period=60s --retries=6 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:9300/simulator/stats', timeout=3)"]
# the simulator's name is the command: wechat, sms or mail
ENTRYPOINT ["/bin/sh", "-c", "exec python -m sandbox.simulators.$0 --settings /run/canbao/settings.toml"]


FROM base AS provision
COPY contracts contracts
COPY services services
COPY sandbox sandbox
# one folder for each volume: a new volume takes owner and mode from here
RUN python -m compileall -q /app \
    && for volume in vault kafka postgres wechat sms mail enrollment billing payment notify console months; do \
        install -d -o canbao -g canbao -m 0700 "/run/canbao/$volume"; done
USER 1000:1000
ENTRYPOINT ["python", "-m", "sandbox.containers"]
