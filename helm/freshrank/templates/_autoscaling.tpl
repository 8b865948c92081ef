{{/* The scaler of a workload. Takes (dict "root" $ "component" name "workload" merged "path" key's path). */}}
{{- define "freshrank.autoscaling" -}}
{{- $own := .workload.autoscaling -}}
{{- if and (ne $own.type "none") (not (include "freshrank.resting" .)) -}}
{{- include "freshrank.autoscalingBounds" . -}}
{{- $name := printf "%s-%s" (include "freshrank.fullname" .root) .component -}}
{{- $kind := ternary "StatefulSet" "Deployment" .workload.stableNames -}}
{{- if eq $own.type "hpa" -}}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: {{ $name }}
  labels: {{- include "freshrank.labels" . | nindent 4 }}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: {{ $kind }}, name: {{ $name }}}
  minReplicas: {{ $own.min | int }}
  maxReplicas: {{ $own.max | int }}
  metrics:
    {{- if eq .component "triton" }}
    # An adapter of custom metrics answers this one.
    - type: Pods
      pods:
        metric: {name: nv_inference_pending_request_count}
        target: {type: AverageValue, averageValue: {{ $own.pending | int | quote }}}
    {{- else }}
    - type: Resource
      resource: {name: cpu, target: {type: Utilization, averageUtilization: {{ $own.cpu | int }}}}
    {{- end }}
  behavior: {{- include "freshrank.scaleSlowly" $own | nindent 4 }}
{{- else -}}
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  name: {{ $name }}
  labels: {{- include "freshrank.labels" . | nindent 4 }}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: {{ $kind }}, name: {{ $name }}}
  minReplicaCount: {{ $own.min | int }}
  maxReplicaCount: {{ $own.max | int }}
  advanced:
    horizontalPodAutoscalerConfig:
      behavior: {{- include "freshrank.scaleSlowly" $own | nindent 8 }}
  triggers: {{- include "freshrank.triggers" . | nindent 4 }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Streams have no pods while partitions are added. */}}
{{- define "freshrank.resting" -}}
{{- if and .root.Values.jobs.reshard.enabled (include "freshrank.groupTopics" .component) }}true{{ end -}}
{{- end -}}

{{/* A pod of a stream that comes or goes moves partitions: one at a time. */}}
{{- define "freshrank.scaleSlowly" -}}
scaleDown:
  stabilizationWindowSeconds: {{ .cooldownSeconds | int }}
  policies: [{type: Pods, value: 1, periodSeconds: {{ min (max (.cooldownSeconds | int) 1) 1800 }}}]
{{- end -}}

{{- define "freshrank.triggers" -}}
{{- $own := .workload.autoscaling -}}
{{- $topics := include "freshrank.groupTopics" .component -}}
{{- if $topics -}}
{{- range $topic := splitList "," $topics }}
- type: kafka
  metadata:
    bootstrapServers: {{ include "freshrank.bootstrap" $.root | quote }}
    consumerGroup: {{ $.component }}
    topic: {{ $topic }}
    lagThreshold: {{ $own.lag | int | quote }}
    offsetResetPolicy: earliest
    allowIdleConsumers: "false"
    excludePersistentLag: "true"
    {{- if include "freshrank.tlsOn" (dict "root" $.root "part" "kafka") }}
    tls: enable
    {{- end }}
    {{- if $.root.Values.kafka.sasl.username }}
    sasl: scram_sha512
    {{- end }}
  authenticationRef: {name: {{ include "freshrank.fullname" $.root }}-kafka}
{{- end }}
{{- else if eq .component "triton" }}
- type: prometheus
  metadata:
    serverAddress: {{ $own.prometheus | quote }}
    query: sum(nv_inference_pending_request_count{job="{{ include "freshrank.fullname" .root }}-triton"})
    threshold: {{ $own.pending | int | quote }}
{{- else }}
- type: cpu
  metricType: Utilization
  metadata: {value: {{ $own.cpu | int | quote }}}
{{- end }}
{{- end -}}

{{/* Topics that a service reads as a group, comma-separated; each group is called as its service. Takes the service. */}}
{{- define "freshrank.groupTopics" -}}
{{- get (dict "ingest" "events.in" "features" "interactions,item_interactions" "joiner" "interactions") . -}}
{{- end -}}

{{- define "freshrank.autoscalingBounds" -}}
{{- $own := .workload.autoscaling -}}
{{- $partitions := .root.Values.kafka.partitions | int -}}
{{- if gt (int $own.min) (int $own.max) -}}
{{- fail (printf "at '%s/autoscaling/min': %d is more than max, %d" .path (int $own.min) (int $own.max)) -}}
{{- end -}}
{{- if and (include "freshrank.groupTopics" .component) (gt (int $own.max) $partitions) -}}
{{- fail (printf "at '%s/autoscaling/max': %d pods for the %d partitions of kafka.partitions" .path (int $own.max) $partitions) -}}
{{- end -}}
{{- if and (eq .component "triton") (eq $own.type "keda") (not $own.prometheus) -}}
{{- fail (printf "at '%s/autoscaling/prometheus': keda needs the address of Prometheus" .path) -}}
{{- end -}}
{{- end -}}

{{/* Credentials that KEDA needs for Kafka: of the same Secrets as the services. */}}
{{- define "freshrank.kafkaAuthentication" -}}
{{- $user := .Values.kafka.sasl.username -}}
{{- $tls := include "freshrank.tlsOn" (dict "root" . "part" "kafka") -}}
{{- $name := printf "%s-kafka" (include "freshrank.fullname" .) -}}
{{- if or $user $tls -}}
{{- if $tls }}
{{- if .Values.strimzi.enabled }}
- {parameter: ca, name: {{ $name }}-cluster-ca-cert, key: ca.crt}
- {parameter: cert, name: {{ $name }}-user, key: user.crt}
- {parameter: key, name: {{ $name }}-user, key: user.key}
{{- else }}
{{- $secret := include "freshrank.tlsSecret" (dict "root" . "part" "kafka") }}
- {parameter: ca, name: {{ $secret }}, key: ca.crt}
{{- if .Values.tls.kafka.mutual }}
- {parameter: cert, name: {{ $secret }}, key: tls.crt}
- {parameter: key, name: {{ $secret }}, key: tls.key}
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.kafka.sasl }}
{{- if .username }}
- {parameter: password, name: {{ .existingSecret }}, key: {{ .existingSecretKey }}}
{{- end }}
{{- end }}
{{- end -}}
{{- end -}}
