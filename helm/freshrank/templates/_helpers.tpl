{{/* Every name begins with the release's. */}}
{{- define "freshrank.fullname" -}}
{{- default .Release.Name .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Labels that never change: what selectors ask for. Takes (dict "root" $ "component" name). */}}
{{- define "freshrank.selector" -}}
app.kubernetes.io/name: freshrank
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "freshrank.labels" -}}
{{ include "freshrank.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: freshrank
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end -}}

{{/* registry/repository:tag, or registry/repository@digest. Takes (dict "root" $ "repository" name "tag" tag "digest" digest). */}}
{{- define "freshrank.image" -}}
{{- with .root.Values.image.registry }}{{ . }}/{{ end -}}
{{- if .digest -}}{{ .repository }}@{{ .digest }}{{- else -}}{{ .repository }}:{{ default .root.Chart.AppVersion .tag }}{{- end -}}
{{- end -}}

{{/* The image of a service. Takes (dict "root" $ "service" name). */}}
{{- define "freshrank.serviceImage" -}}
{{- $image := .root.Values.image -}}
{{- $own := mergeOverwrite (deepCopy .root.Values.defaults.image) (index .root.Values.services .service | default dict | dig "image" dict) -}}
{{ include "freshrank.image" (dict "root" .root "repository" (printf "%s-%s" $image.repository .service) "tag" (default $image.tag $own.tag) "digest" $own.digest) }}
{{- end -}}

{{/* Every workload of the services by name, with the defaults beneath it, as JSON (in YAML 2000000 would become 2e+06).
Of each further arm there is a trainer and a publisher. The text encoder's is a trainer with an argument, its `part`. */}}
{{- define "freshrank.workloads" -}}
{{- $found := dict -}}
{{- range $name, $own := .Values.services -}}
{{- $_ := set $found $name (mergeOverwrite (deepCopy $.Values.defaults) (deepCopy (default dict $own)) (dict "service" $name "arm" "main")) -}}
{{- end -}}
{{- range $arm, $own := .Values.arms -}}
{{- $settings := dict "trainer" (merge (dict "arm" $arm) (default dict $own.settings)) "publisher" (dict "arm" $arm "slots" $own.slots) -}}
{{- range $service := list "trainer" "publisher" -}}
{{- $_ := set $found (printf "%s-%s" $service $arm) (mergeOverwrite (deepCopy (index $found $service)) (dict "arm" $arm "settings" (index $settings $service))) -}}
{{- end -}}
{{- end -}}
{{- with .Values.textEncoder -}}
{{- if .enabled -}}
{{- $own := dict "part" "text" "gpu" false "settings" .settings "resources" .resources -}}
{{- $_ := set $found "text-encoder" (mergeOverwrite (deepCopy (omit (index $found "trainer") "settings" "resources")) $own) -}}
{{- end -}}
{{- end -}}
{{ toJson $found }}
{{- end -}}

{{/* Where Kafka is. */}}
{{- define "freshrank.bootstrap" -}}
{{- if .Values.strimzi.enabled -}}
{{ include "freshrank.fullname" . }}-kafka-kafka-bootstrap:9093
{{- else -}}
{{ .Values.kafka.bootstrap }}
{{- end -}}
{{- end -}}

{{- define "freshrank.claim" -}}
{{- default (printf "%s-store" (include "freshrank.fullname" .)) .Values.store.existingClaim -}}
{{- end -}}

{{/* Storage class of a new claim; empty = the cluster's default. A class is in no namespace, so its name carries this one. */}}
{{- define "freshrank.storageClass" -}}
{{- if .Values.store.s3.existingSecret -}}
{{ printf "%s-%s" (include "freshrank.fullname" .) .Release.Namespace | trunc 57 | trimSuffix "-" }}-store
{{- else -}}
{{ .Values.store.storageClass }}
{{- end -}}
{{- end -}}

{{/* Resources, with GPUs where they are wanted. Takes (dict "root" $ "workload" merged). */}}
{{- define "freshrank.resources" -}}
{{- $resources := deepCopy .workload.resources -}}
{{- if and .root.Values.gpu.enabled .workload.gpu -}}
{{- $resources = mergeOverwrite $resources (dict "limits" (dict .root.Values.gpu.resource (.root.Values.gpu.count | int | toString))) -}}
{{- end -}}
{{ toYaml $resources }}
{{- end -}}

{{/* Placement, with the toleration that GPU nodes ask for. Takes (dict "root" $ "component" name "workload" merged). */}}
{{- define "freshrank.placement" -}}
{{- $tolerations := .workload.tolerations -}}
{{- if and .root.Values.gpu.enabled .workload.gpu -}}
{{- $tolerations = append $tolerations (dict "key" .root.Values.gpu.resource "operator" "Exists" "effect" "NoSchedule") -}}
{{- end -}}
{{- with $tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .workload.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .workload.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .workload.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- if .workload.topologySpread }}
topologySpreadConstraints:
  {{- range .workload.topologySpread }}
  - topologyKey: {{ .topologyKey }}
    maxSkew: {{ .maxSkew | int }}
    whenUnsatisfiable: {{ .whenUnsatisfiable }}
    labelSelector:
      matchLabels: {{- include "freshrank.selector" $ | nindent 8 }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* How many pods may be away. Takes (dict "root" $ "component" name "workload" merged "path" key's path). */}}
{{- define "freshrank.disruption" -}}
{{- $budget := .workload.podDisruptionBudget -}}
{{- $least := ternary .workload.replicas .workload.autoscaling.min (eq .workload.autoscaling.type "none") | int -}}
{{- $stay := toString $budget.minAvailable -}}
{{- if $budget.enabled -}}
{{- if and $stay (not (hasSuffix "%" $stay)) (ge (int $stay) $least) -}}
{{- fail (printf "at '%s/podDisruptionBudget/minAvailable': %s of %d pods would let no node be drained" .path $stay $least) -}}
{{- end -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "freshrank.fullname" .root }}-{{ .component }}
  labels: {{- include "freshrank.labels" . | nindent 4 }}
spec:
  {{- if $stay }}
  minAvailable: {{ $budget.minAvailable }}
  {{- else }}
  maxUnavailable: {{ $budget.maxUnavailable }}
  {{- end }}
  # A pod that is not healthy yet keeps nobody from draining its node.
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels: {{- include "freshrank.selector" . | nindent 6 }}
{{- end -}}
{{- end -}}
