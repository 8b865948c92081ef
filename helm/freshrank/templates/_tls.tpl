{{/* Certificates of a pod. What follows takes (dict "root" $ "tls" parts it has to do with "serves" the part it is itself). */}}

{{/* Is a connection TLS? Takes (dict "root" $ "part" name). Strimzi's is always. */}}
{{- define "freshrank.tlsOn" -}}
{{- if or (index .root.Values.tls .part).enabled (and (eq .part "kafka") .root.Values.strimzi.enabled) -}}true{{- end -}}
{{- end -}}

{{/* Does it need a certificate of our own: a server does, a client where both sides show one. */}}
{{- define "freshrank.tlsOwn" -}}
{{- if or (index .root.Values.tls .part).mutual (eq .part (default "" .serves)) (and (eq .part "kafka") .root.Values.strimzi.enabled) -}}true{{- end -}}
{{- end -}}

{{/* The Secret of a part: named, or made by cert-manager. */}}
{{- define "freshrank.tlsSecret" -}}
{{- $own := index .root.Values.tls .part -}}
{{- if $own.existingSecret -}}
{{ $own.existingSecret }}
{{- else if .root.Values.tls.certManager.enabled -}}
{{ include "freshrank.fullname" .root }}-{{ .part }}-tls
{{- else -}}
{{- fail (printf "at '/tls/%s/existingSecret': TLS needs a Secret, or tls.certManager.enabled" .part) -}}
{{- end -}}
{{- end -}}

{{- define "freshrank.tlsMounts" -}}
{{- range $part := .tls }}
{{- if include "freshrank.tlsOn" (dict "root" $.root "part" $part) }}
- {name: tls-{{ $part }}, mountPath: /srv/freshrank/tls/{{ $part }}, readOnly: true}
{{- end }}
{{- end }}
{{- if and (has "kafka" .tls) .root.Values.kafka.sasl.username }}
- {name: kafka-password, mountPath: /srv/freshrank/kafka, readOnly: true}
{{- end }}
{{- end -}}

{{- define "freshrank.tlsVolumes" -}}
{{- range $part := .tls }}
{{- $scope := dict "root" $.root "part" $part "serves" $.serves }}
{{- if include "freshrank.tlsOn" $scope }}
- name: tls-{{ $part }}
  projected:
    defaultMode: 288 # 0440
    sources:
      {{- if and (eq $part "kafka") $.root.Values.strimzi.enabled }}
      {{- $name := printf "%s-kafka" (include "freshrank.fullname" $.root) }}
      - secret: {name: {{ $name }}-cluster-ca-cert, items: [{key: ca.crt, path: ca.crt}]}
      - secret: {name: {{ $name }}-user, items: [{key: user.crt, path: tls.crt}, {key: user.key, path: tls.key}]}
      {{- else }}
      - secret:
          name: {{ include "freshrank.tlsSecret" $scope }}
          items:
            - {key: ca.crt, path: ca.crt}
            {{- if include "freshrank.tlsOwn" $scope }}
            - {key: tls.crt, path: tls.crt}
            - {key: tls.key, path: tls.key}
            {{- end }}
      {{- end }}
{{- end }}
{{- end }}
{{- with .root.Values.kafka.sasl }}
{{- if and (has "kafka" $.tls) .username }}
- name: kafka-password
  projected:
    defaultMode: 288 # 0440
    sources:
      - secret: {name: {{ .existingSecret }}, items: [{key: {{ .existingSecretKey }}, path: password}]}
{{- end }}
{{- end }}
{{- end -}}

{{- define "freshrank.tlsEnv" -}}
{{- range $part := .tls }}
{{- $scope := dict "root" $.root "part" $part "serves" $.serves }}
{{- $folder := printf "/srv/freshrank/tls/%s" $part }}
{{- if include "freshrank.tlsOn" $scope }}
{{- if eq $part (default "" $.serves) }}
- {name: FRESHRANK_GATEWAY_TLS_CERT, value: {{ $folder }}/tls.crt}
- {name: FRESHRANK_GATEWAY_TLS_KEY, value: {{ $folder }}/tls.key}
{{- if $.root.Values.tls.gateway.mutual }}
- {name: FRESHRANK_GATEWAY_TLS_CLIENT_CA, value: {{ $folder }}/ca.crt}
{{- end }}
{{- else }}
{{- $prefix := ternary "FRESHRANK_CLI_TLS" (printf "FRESHRANK_%s" (upper $part)) (eq $part "gateway") }}
- {name: {{ $prefix }}_CA, value: {{ $folder }}/ca.crt}
{{- if include "freshrank.tlsOwn" $scope }}
- {name: {{ $prefix }}_CERT, value: {{ $folder }}/tls.crt}
- {name: {{ $prefix }}_KEY, value: {{ $folder }}/tls.key}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- if and (has "kafka" .tls) .root.Values.kafka.sasl.username }}
- {name: FRESHRANK_KAFKA_USERNAME, value: {{ .root.Values.kafka.sasl.username | quote }}}
- {name: FRESHRANK_KAFKA_PASSWORD_FILE, value: /srv/freshrank/kafka/password}
{{- end }}
{{- end -}}

{{/* Parts that a service speaks to, comma-separated. Takes (dict "service" name "secrets" list). */}}
{{- define "freshrank.tlsParts" -}}
{{- $parts := list "kafka" -}}
{{- if has "redis" .secrets -}}{{- $parts = append $parts "redis" -}}{{- end -}}
{{- if has .service (list "gateway" "publisher") -}}{{- $parts = append $parts "triton" -}}{{- end -}}
{{- if eq .service "gateway" -}}{{- $parts = append $parts "gateway" -}}{{- end -}}
{{ join "," $parts }}
{{- end -}}
