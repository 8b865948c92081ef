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

{{/* Who the pod is. Service links are off in every pod: Kubernetes would otherwise add variables such as
FRESHRANK_GATEWAY_PORT=tcp://... for a Service of this name, and the gateway would read them as its settings.
Takes (dict "root" $ "service" name): the publisher alone talks to the API server. */}}
{{- define "freshrank.podBase" -}}
{{- $token := eq .service "publisher" -}}
serviceAccountName: {{ include "freshrank.fullname" .root }}{{ if $token }}-publisher{{ end }}
automountServiceAccountToken: {{ $token }}
enableServiceLinks: false
securityContext:
  {{- include "freshrank.podSecurity" . | nindent 2 }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Variables that come from Secrets. Takes (dict "root" $ "secrets" list). */}}
{{- define "freshrank.secretEnv" -}}
{{- $names := dict "redis" "FRESHRANK_REDIS_URL" "registry" "FRESHRANK_REGISTRY" "tokens" "FRESHRANK_TOKEN_KEYS" "admin" "FRESHRANK_GATEWAY_ADMIN_TOKEN" "operator" "FRESHRANK_CLI_ADMIN_TOKEN" -}}
{{- range .secrets }}
{{- $from := index $.root.Values (ternary "admin" . (eq . "operator")) }}
{{- if $from.existingSecret }}
- name: {{ index $names . }}
  valueFrom:
    secretKeyRef: {name: {{ $from.existingSecret }}, key: {{ $from.existingSecretKey }}}
{{- end }}
{{- end }}
{{- end -}}

{{/* Mounts and volumes. Take (dict "root" $ "store" write|read|none "tls" parts "scratch" size "repo" true|false), and
"serves" or "service", whose pods they are. */}}
{{- define "freshrank.mounts" -}}
- {name: scratch, mountPath: /tmp}
{{- if ne .store "none" }}
- {name: store, mountPath: /srv/freshrank/store, readOnly: {{ eq .store "read" }}{{ include "freshrank.propagation" .root }}}
{{- end }}
{{- if include "freshrank.keysClaim" . }}
- {name: keys, mountPath: /srv/freshrank/store/keys}
{{- end }}
{{- if include "freshrank.repoMap" .root }}
- {name: feature-repo, mountPath: /srv/freshrank/feature_repo, readOnly: true}
{{- end }}
{{- include "freshrank.tlsMounts" . }}
{{- end -}}

{{/* A file system in user space that is mounted again has to come into the pods that are there. */}}
{{- define "freshrank.propagation" -}}
{{- if .Values.store.s3.existingSecret }}, mountPropagation: HostToContainer{{ end }}
{{- end -}}

{{- define "freshrank.volumes" -}}
- name: scratch
  emptyDir: {sizeLimit: {{ .scratch }}}
{{- if ne .store "none" }}
- name: store
  persistentVolumeClaim:
    claimName: {{ include "freshrank.claim" .root }}
{{- end }}
{{- with include "freshrank.keysClaim" . }}
- name: keys
  persistentVolumeClaim:
    claimName: {{ . }}
{{- end }}
{{- with include "freshrank.repoMap" .root }}
- name: feature-repo
  configMap: {name: {{ . }}{{ if $.hook }}-hook{{ end }}}
{{- end }}
{{- include "freshrank.tlsVolumes" . }}
{{- end -}}

{{/* Claim of the keys of archives, for the pods that write or read archives; empty = the keys lie in the store. */}}
{{- define "freshrank.keysClaim" -}}
{{- if or (eq (default "" .service) "trainer") (has (default "" .serves) (list "features" "trainer")) -}}
{{ .root.Values.store.seal.existingClaim }}
{{- end -}}
{{- end -}}

{{/* ConfigMap that the feature repository comes from; empty = the one inside the image. */}}
{{- define "freshrank.repoMap" -}}
{{- if .Values.featureRepo.files -}}
{{ include "freshrank.fullname" . }}-feature-repo
{{- else -}}
{{ .Values.featureRepo.configMap }}
{{- end -}}
{{- end -}}
