# The model server of a cluster:  docker build -f services/publisher/triton.Dockerfile -t freshrank-triton:0.1.0 services/publisher
# Release 24.10 holds server 2.51, the version that the demo and the tests run. A build that has to be the same again gives it by
# digest: --build-arg TRITON_IMAGE=nvcr.io/nvidia/tritonserver@sha256:... (docker buildx imagetools inspect says which).
ARG TRITON_IMAGE=nvcr.io/nvidia/tritonserver:24.10-py3
FROM ${TRITON_IMAGE}
# Only the native onnxruntime backend: the Python one would run code that lies in the model store.
RUN find /opt/tritonserver/backends -mindepth 1 -maxdepth 1 ! -name onnxruntime -exec rm -rf {} + \
 && test -d /opt/tritonserver/backends/onnxruntime
USER 10001:10001
EXPOSE 8000 8001 8002
ENTRYPOINT []
CMD ["tritonserver", "--model-repository=/srv/freshrank/store/triton", "--model-control-mode=explicit", "--strict-readiness=false", "--disable-auto-complete-config"]
