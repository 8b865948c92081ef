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

{{/* registry/repository[-service]:tag. Takes (dict "root" $ "repository" name "tag" tag). */}}
{{- define "freshrank.image" -}}
{{- with .root.Values.image.registry }}{{ . }}/{{ end -}}
{{ .repository }}:{{ default .root.Chart.AppVersion .tag }}
{{- end -}}

{{- define "freshrank.serviceImage" -}}
{{- $image := .root.Values.image -}}
{{ include "freshrank.image" (dict "root" .root "repository" (printf "%s-%s" $image.repository .component) "tag" $image.tag) }}
{{- end -}}

{{/* One address per Triton pod, so that a release is loaded on every one of them. */}}
{{- define "freshrank.tritonPods" -}}
{{- $name := printf "%s-triton" (include "freshrank.fullname" .) -}}
{{- $pods := list -}}
{{- range $i := until (int .Values.triton.replicas) -}}
{{- $pods = append $pods (printf "%s-%d.%s:8001" $name $i $name) -}}
{{- end -}}
{{ join "," $pods }}
{{- end -}}

{{/* What the `restricted` pod security standard asks of a pod. */}}
{{- define "freshrank.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* The same, of a container. */}}
{{- define "freshrank.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Where everything is. Service links are off in every pod: Kubernetes would otherwise add variables such as
FRESHRANK_GATEWAY_PORT=tcp://... for a Service of this name, and the gateway would read them as its settings. */}}
{{- define "freshrank.podBase" -}}
serviceAccountName: {{ include "freshrank.fullname" . }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  {{- include "freshrank.podSecurity" . | nindent 2 }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Variables that come from Secrets. Takes (dict "root" $ "secrets" list). */}}
{{- define "freshrank.secretEnv" -}}
{{- $names := dict "redis" "FRESHRANK_REDIS_URL" "registry" "FRESHRANK_REGISTRY" "tokens" "FRESHRANK_TOKEN_KEYS" "admin" "FRESHRANK_GATEWAY_ADMIN_TOKEN" -}}
{{- range .secrets }}
{{- $from := index $.root.Values . }}
{{- if $from.existingSecret }}
- name: {{ index $names . }}
  valueFrom:
    secretKeyRef: {name: {{ $from.existingSecret }}, key: {{ $from.existingSecretKey }}}
{{- end }}
{{- end }}
{{- end -}}

{{/* Mounts and volumes. Take (dict "root" $ "store" "write|read|none"). */}}
{{- define "freshrank.mounts" -}}
- {name: scratch, mountPath: /tmp}
{{- if ne .store "none" }}
- {name: store, mountPath: /srv/freshrank/store, readOnly: {{ eq .store "read" }}}
{{- end }}
{{- if .root.Values.featureRepo.configMap }}
- {name: feature-repo, mountPath: /srv/freshrank/feature_repo, readOnly: true}
{{- end }}
{{- end -}}

{{- define "freshrank.volumes" -}}
- name: scratch
  emptyDir: {}
{{- if ne .store "none" }}
- name: store
  persistentVolumeClaim:
    claimName: {{ include "freshrank.claim" .root }}
{{- end }}
{{- with .root.Values.featureRepo.configMap }}
- name: feature-repo
  configMap: {name: {{ . }}}
{{- end }}
{{- end -}}

{{- define "freshrank.claim" -}}
{{- default (printf "%s-store" (include "freshrank.fullname" .)) .Values.store.existingClaim -}}
{{- end -}}

{{/* Resources, with a GPU where it is wanted. Takes (dict "root" $ "workload" merged). */}}
{{- define "freshrank.resources" -}}
{{- $resources := deepCopy .workload.resources -}}
{{- if and .root.Values.gpu.enabled .workload.gpu -}}
{{- $resources = mergeOverwrite $resources (dict "limits" (dict .root.Values.gpu.resource 1)) -}}
{{- end -}}
{{ toYaml $resources }}
{{- end -}}

{{/* Placement, with the toleration that GPU nodes ask for. Takes the same. */}}
{{- define "freshrank.placement" -}}
{{- $tolerations := .workload.tolerations -}}
{{- if and .root.Values.gpu.enabled .workload.gpu -}}
{{- $tolerations = append $tolerations (dict "key" .root.Values.gpu.resource "operator" "Exists" "effect" "NoSchedule") -}}
{{- end -}}
{{- with $tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .workload.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .workload.affinity }}
affinity: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
