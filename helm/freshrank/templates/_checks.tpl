{{/* What a schema cannot say: values that contradict each other. Every message begins as the schema's do, with the key's path. */}}
{{- define "freshrank.checks" -}}
{{- $networks := .Values.networkPolicy -}}
{{- if $networks.enabled -}}
{{- range $part, $addresses := dict "kafka" (include "freshrank.bootstrap" .) "otlp" .Values.otlpEndpoint -}}
{{- $open := list -}}
{{- range (get $networks.to $part).ports -}}{{- $open = append $open (int .) -}}{{- end -}}
{{- range splitList "," $addresses -}}
{{- if and . (not (has (splitList ":" . | last | int) $open)) -}}
{{- fail (printf "at '/networkPolicy/to/%s/ports': the port of %s is not among them" $part .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $taken := list "a" "b" -}}
{{- range $arm, $own := .Values.arms -}}
{{- range splitList "" $own.slots -}}
{{- if has . $taken -}}
{{- fail (printf "at '/arms/%s/slots': slot %s is another's; main has ab" $arm .) -}}
{{- end -}}
{{- $taken = append $taken . -}}
{{- end -}}
{{- end -}}
{{- with .Values.jobs.reshard -}}
{{- if and .enabled (le (int .partitions) (int $.Values.kafka.partitions)) -}}
{{- fail (printf "at '/jobs/reshard/partitions': must be more than kafka.partitions, %d: Kafka takes none away" (int $.Values.kafka.partitions)) -}}
{{- end -}}
{{- end -}}
{{- with .Values.maintenance -}}
{{- if and .enabled (or (eq .arm "main") (hasKey $.Values.arms .arm)) -}}
{{- fail (printf "at '/maintenance/arm': there is an arm %s already" .arm) -}}
{{- end -}}
{{- if and .enabled (ne .of "main") (not (hasKey $.Values.arms .of)) -}}
{{- fail (printf "at '/maintenance/of': there is no arm %s" .of) -}}
{{- end -}}
{{- end -}}
{{- with .Values.featureRepo -}}
{{- if gt (len (list (ternary "files" "" (gt (len .files) 0)) .configMap .git.repository | compact)) 1 -}}
{{- fail "at '/featureRepo': definitions come from one of files, configMap and git" -}}
{{- end -}}
{{- end -}}
{{- with .Values.store -}}
{{- if and .s3.existingSecret (or .storageClass .existingClaim) -}}
{{- fail (printf "at '/store/s3/existingSecret': %s is the volume already" (ternary "storageClass" "existingClaim" (ne .storageClass ""))) -}}
{{- end -}}
{{- end -}}
{{- with .Values.strimzi -}}
{{- if and .enabled (gt (int .minInSyncReplicas) (int .replicas)) -}}
{{- fail (printf "at '/strimzi/minInSyncReplicas': %d is more than replicas, %d" (int .minInSyncReplicas) (int .replicas)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
