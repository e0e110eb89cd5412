# The images of Consilium, one target each. docs/containers.md says what runs where; `docker compose build` builds them all.
#
#   courier      SuperNode and courier: no torch, no image library
#   coordinator  SuperLink, ServerApp and the command: no torch, no image library
#   gateway      nginx, which lets only the hospitals' side of Flower's interface through
#   agent        the hospital's resident process; the only image with torch

# ------------------------------------------------------------------------------------------------ what is installed

FROM python:3.11-slim-bookworm AS requirements
WORKDIR /src
COPY pyproject.toml deploy/docker/requirements.py ./
RUN python requirements.py /requirements

FROM python:3.11-slim-bookworm AS wheel
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY common common
COPY server server
COPY client client
COPY simulation simulation
COPY cli cli
COPY deploy deploy
RUN pip wheel --no-cache-dir --no-deps --quiet --wheel-dir /wheel .

# ------------------------------------------------------------------------------------------------ common ground

FROM python:3.11-slim-bookworm AS runtime
# One user for everything of Flower's and one for the agent. The group is for the socket between courier and agent:
# the agent makes it, the courier may use it, and the folder is the agent's own.
RUN groupadd --gid 10001 agent && groupadd --gid 10002 consilium && groupadd --gid 10003 socket \
 && useradd --uid 10001 --gid agent --groups socket --no-create-home --home-dir /tmp --shell /usr/sbin/nologin agent \
 && useradd --uid 10002 --gid consilium --groups socket --no-create-home --home-dir /tmp --shell /usr/sbin/nologin consilium \
 && install -d -o agent -g socket -m 0710 /run/consilium \
 && install -d -o consilium -g consilium -m 0700 /run/superexec \
 && python -m venv --without-pip /opt/consilium
# A courier's dependencies are those of every image, so that they are stored once.
RUN --mount=type=bind,source=deploy/docker/install.sh,target=/build/install.sh \
    --mount=type=bind,source=constraints.txt,target=/build/constraints.txt \
    --mount=type=bind,from=requirements,source=/requirements/courier.txt,target=/build/courier.txt \
    sh /build/install.sh -c /build/constraints.txt -r /build/courier.txt
COPY deploy/docker/healthy.py deploy/docker/with_secret.sh /usr/local/bin/
# Nothing in here phones home or installs anything. What is written goes to memory: /tmp is a tmpfs.
ENV PATH=/opt/consilium/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    FLWR_HOME=/tmp/flwr \
    FLWR_TELEMETRY_ENABLED=0 \
    ORT_DISABLE_TELEMETRY=1 \
    FLWR_DISABLE_UPDATE_CHECK=1 \
    FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1 \
    FLWR_SUPEREXEC_TASK_POLL_INTERVAL=0.2
WORKDIR /tmp

# ------------------------------------------------------------------------------------------------ the images

FROM runtime AS courier
RUN --mount=type=bind,source=deploy/docker/install.sh,target=/build/install.sh \
    --mount=type=bind,from=wheel,source=/wheel,target=/build/wheel \
    sh /build/install.sh --no-index --no-deps /build/wheel/*.whl
USER consilium
CMD ["flower-supernode", "--help"]

FROM runtime AS coordinator
RUN --mount=type=bind,source=deploy/docker/install.sh,target=/build/install.sh \
    --mount=type=bind,source=constraints.txt,target=/build/constraints.txt \
    --mount=type=bind,from=requirements,source=/requirements/coordinator.txt,target=/build/coordinator.txt \
    sh /build/install.sh -c /build/constraints.txt -r /build/coordinator.txt
RUN --mount=type=bind,source=deploy/docker/install.sh,target=/build/install.sh \
    --mount=type=bind,from=wheel,source=/wheel,target=/build/wheel \
    sh /build/install.sh --no-index --no-deps /build/wheel/*.whl \
 && for folder in . certificates state runs; do \
      install -d -o consilium -g consilium -m 0700 "/var/lib/consilium/federation/$folder"; done \
 # for the demonstration: what `setup` of docker-compose.yml makes
 && for who in coordinator gateway hospital-a hospital-b hospital-c; do install -d -o consilium -g consilium -m 0700 "/out/$who"; done
COPY deploy/docker/demo_setup.sh /usr/local/bin/
COPY configs /configs
ENV CONSILIUM_FEDERATION=/var/lib/consilium/federation \
    CONSILIUM_SUPERLINK=superlink:8000
WORKDIR /
USER consilium
CMD ["consilium", "--help"]

FROM coordinator AS gateway-config
RUN python -c "from deploy.gateway import *; open('/tmp/nginx.conf', 'w').write(config_text(IN_A_CONTAINER))"

FROM python:3.11-slim-bookworm AS gateway
RUN apt-get update -qq \
 && apt-get install --quiet --yes --no-install-recommends nginx-light \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/log/* /var/www /etc/nginx/sites-* \
 && groupadd --gid 10002 consilium \
 && useradd --uid 10002 --gid consilium --no-create-home --home-dir /tmp --shell /usr/sbin/nologin consilium
COPY deploy/docker/healthy.py /usr/local/bin/
COPY --from=gateway-config --chown=root:root --chmod=0644 /tmp/nginx.conf /etc/nginx/nginx.conf
USER consilium
STOPSIGNAL SIGQUIT
CMD ["nginx", "-e", "stderr", "-g", "daemon off;"]

FROM runtime AS agent
RUN --mount=type=bind,source=deploy/docker/install.sh,target=/build/install.sh \
    --mount=type=bind,source=constraints.txt,target=/build/constraints.txt \
    --mount=type=bind,from=requirements,source=/requirements/agent.txt,target=/build/agent.txt \
    sh /build/install.sh -c /build/constraints.txt -r /build/agent.txt
RUN --mount=type=bind,source=deploy/docker/install.sh,target=/build/install.sh \
    --mount=type=bind,from=wheel,source=/wheel,target=/build/wheel \
    sh /build/install.sh --no-index --no-deps /build/wheel/*.whl \
 && for folder in cache state weights; do install -d -o agent -g agent -m 0700 "/var/lib/consilium/$folder"; done \
 && install -d -o agent -g agent -m 0700 /data \
 # for the demonstration: whose images `images` of docker-compose.yml makes
 && for who in hospital-a hospital-b hospital-c; do install -d -o agent -g agent -m 0700 "/out/$who"; done
COPY deploy/docker/demo_images.py /usr/local/bin/
# So that `docker compose exec agent consilium hospital jobs` needs no options.
ENV CONSILIUM_HOSPITAL_FILE=/etc/consilium/hospital.yaml \
    CONSILIUM_AGENT_SOCKET=/run/consilium/agent.sock
USER agent
CMD ["consilium", "hospital", "serve", "--help"]
