{{/* The pod template of a job: one container that runs a command of an image and ends.
Takes (dict "root" $ "name" component "service" image "command" list), and as needed: "secrets" list, "store" write|read|none,
"tls" parts, "env" text, "repo" folder of the feature repository, "resources", "restart" policy, "hook" true, "before" init containers, "volumes" and "mounts" text. */}}
{{- define "freshrank.jobPod" -}}
{{- $job := merge (dict) . (dict "secrets" list "store" "none" "tls" list "env" "" "restart" "OnFailure" "hook" false "before" "" "volumes" "" "mounts" "" "scratch" "4Gi" "resources" .root.Values.jobs.resources) -}}
metadata:
  labels: {{- include "freshrank.labels" (dict "root" .root "component" .name) | nindent 4 }}
spec:
  {{- include "freshrank.podBase" (dict "root" .root "service" .name) | nindent 2 }}
  restartPolicy: {{ $job.restart }}
  {{- with $job.before }}
  initContainers: {{- . | nindent 4 }}
  {{- end }}
  containers:
    - name: {{ .name }}
      {{- include "freshrank.jobContainer" $job | nindent 6 }}
  volumes:
    {{- include "freshrank.volumes" $job | nindent 4 }}
    {{- with $job.volumes }}{{ . | nindent 4 }}{{ end }}
{{- end -}}

{{/* All of its container but the name. */}}
{{- define "freshrank.jobContainer" -}}
image: {{ include "freshrank.serviceImage" (dict "root" .root "service" .service) }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
command: {{ toJson .command }}
securityContext: {{- include "freshrank.containerSecurity" . | nindent 2 }}
{{- if not .hook }}
envFrom:
  - configMapRef: {name: {{ include "freshrank.fullname" .root }}-settings}
{{- end }}
{{- with include "freshrank.jobEnv" . | trim }}
env: {{- . | nindent 2 }}
{{- end }}
resources: {{- toYaml .resources | nindent 2 }}
volumeMounts:
  {{- include "freshrank.mounts" . | nindent 2 }}
  {{- with .mounts }}{{ . | nindent 2 }}{{ end }}
{{- end -}}

{{- define "freshrank.jobEnv" -}}
{{- $repo := default "" .repo -}}
{{- /* A hook runs before the ConfigMap of its revision is there. */}}
{{- if .hook }}
{{- range $name, $value := include "freshrank.settings" .root | fromYaml | merge (ternary (dict "FRESHRANK_FEATURE_REPO" $repo) dict (ne $repo "")) }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- else if $repo }}
- {name: FRESHRANK_FEATURE_REPO, value: {{ $repo }}}
{{- end }}
{{- range list (include "freshrank.secretEnv" .) (include "freshrank.tlsEnv" .) (default "" .env) }}
{{- with trim . }}
{{ . }}
{{- end }}
{{- end }}
{{- end -}}
