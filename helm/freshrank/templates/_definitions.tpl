{{/* What a job that applies feature definitions needs, as JSON for freshrank.jobPod. */}}
{{- define "freshrank.definitions" -}}
{{- $job := dict "service" "features" "command" (list "python" "-m" "services.cli" "features" "apply") "secrets" (list "redis" "registry") "store" "write" "tls" (list "redis") -}}
{{- with .Values.featureRepo.git -}}
{{- if .repository -}}
{{- $_ := set $job "before" (include "freshrank.fetch" $) -}}
{{- $_ := set $job "volumes" (include "freshrank.fetchVolumes" $) -}}
{{- $_ := set $job "mounts" "- {name: git, mountPath: /srv/freshrank/git, readOnly: true}" -}}
{{- $_ := set $job "repo" (printf "/srv/freshrank/git/repository/%s" .path) -}}
{{- end -}}
{{- end -}}
{{ toJson $job }}
{{- end -}}

{{/* An init container that fetches the repository. */}}
{{- define "freshrank.fetch" -}}
{{- $git := .Values.featureRepo.git -}}
- name: fetch
  image: {{ $git.image }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [git, clone, --depth=1, --branch={{ $git.revision }}, --, {{ $git.repository | quote }}, /srv/freshrank/git/repository]
  securityContext: {{- include "freshrank.containerSecurity" . | nindent 4 }}
  env:
    - {name: HOME, value: {{ ternary "/srv/freshrank/git-home" "/tmp" (ne $git.existingSecret "") }}}
    - {name: GIT_TERMINAL_PROMPT, value: "0"}
  resources: {requests: {cpu: 50m, memory: 64Mi}, limits: {memory: 256Mi}}
  volumeMounts:
    - {name: scratch, mountPath: /tmp}
    - {name: git, mountPath: /srv/freshrank/git}
    {{- if $git.existingSecret }}
    - {name: git-home, mountPath: /srv/freshrank/git-home, readOnly: true}
    {{- end }}
{{- end -}}

{{- define "freshrank.fetchVolumes" -}}
- name: git
  emptyDir: {sizeLimit: 1Gi}
{{- with .Values.featureRepo.git.existingSecret }}
- name: git-home
  secret: {secretName: {{ . }}, items: [{key: .netrc, path: .netrc}], defaultMode: 288}
{{- end }}
{{- end -}}
