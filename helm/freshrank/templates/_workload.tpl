{{/* The pods of a workload, their Service, budget and scaler. Takes (dict "root" $ "name" workload "workload" merged). */}}
{{- define "freshrank.workload" -}}
{{- $workload := .workload -}}
{{- $service := $workload.service -}}
{{- $scope := dict "root" .root "component" .name "workload" $workload "path" (printf "/services/%s" $service) -}}
{{- $fullname := include "freshrank.fullname" .root -}}
{{- $tls := splitList "," (include "freshrank.tlsParts" (dict "service" $service "secrets" $workload.secrets)) -}}
{{- $files := dict "root" .root "store" $workload.store "tls" $tls "serves" $service "scratch" $workload.scratch -}}
apiVersion: apps/v1
kind: {{ ternary "StatefulSet" "Deployment" $workload.stableNames }}
metadata:
  name: {{ $fullname }}-{{ .name }}
  labels: {{- include "freshrank.labels" $scope | nindent 4 }}
spec:
  {{- if include "freshrank.resting" $scope }}
  replicas: 0
  {{- else if eq $workload.autoscaling.type "none" }}
  replicas: {{ $workload.replicas | int }}
  {{- end }}
  {{- if $workload.stableNames }}
  serviceName: {{ $fullname }}-{{ .name }}
  podManagementPolicy: Parallel
  {{- else }}
  strategy: {type: {{ $workload.strategy }}}
  {{- end }}
  selector:
    matchLabels: {{- include "freshrank.selector" $scope | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "freshrank.labels" $scope | nindent 8 }}
        {{- with $workload.podLabels }}{{ toYaml . | nindent 8 }}{{ end }}
      annotations:
        checksum/settings: {{ include "freshrank.settings" .root | sha256sum }}
        {{- with $workload.podAnnotations }}{{ toYaml . | nindent 8 }}{{ end }}
    spec:
      {{- include "freshrank.podBase" (dict "root" .root "service" $service) | nindent 6 }}
      terminationGracePeriodSeconds: {{ $workload.terminationGracePeriodSeconds | int64 }}
      {{- with include "freshrank.placement" $scope | trim }}{{ . | nindent 6 }}{{ end }}
      containers:
        - name: {{ $service }}
          image: {{ include "freshrank.serviceImage" (dict "root" .root "service" $service) }}
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          command: [python, -m, services.{{ $service }}{{ with $workload.part }}, {{ . }}{{ end }}]
          securityContext: {{- include "freshrank.containerSecurity" . | nindent 12 }}
          envFrom:
            - configMapRef: {name: {{ $fullname }}-settings}
          {{- with include "freshrank.env" (dict "root" .root "workload" $workload "tls" $tls) | trim }}
          env: {{- . | nindent 12 }}
          {{- end }}
          ports:
            - {name: http, containerPort: 8080}
            {{- range $port, $number := $workload.ports }}
            - {name: {{ $port }}, containerPort: {{ $number | int }}}
            {{- end }}
          startupProbe:
            httpGet: {path: /livez, port: http}
            periodSeconds: 2
            failureThreshold: 60
          # Fails when there is work and positions stand still.
          livenessProbe:
            httpGet: {path: /livez, port: http}
            periodSeconds: 10
          readinessProbe:
            {{- if and (eq $workload.readiness "grpc") (not .root.Values.tls.gateway.enabled) }}
            grpc: {port: {{ $workload.ports.grpc | int }}}
            {{- else }}
            httpGet: {path: /readyz, port: http}
            {{- end }}
            periodSeconds: 5
          {{- with $workload.preStopSeconds }}
          lifecycle:
            preStop:
              sleep: {seconds: {{ . | int64 }}}
          {{- end }}
          resources: {{- include "freshrank.resources" $scope | nindent 12 }}
          volumeMounts: {{- include "freshrank.mounts" $files | nindent 12 }}
      volumes: {{- include "freshrank.volumes" $files | nindent 8 }}
---
apiVersion: v1
kind: Service
metadata:
  name: {{ $fullname }}-{{ .name }}
  labels: {{- include "freshrank.labels" $scope | nindent 4 }}
spec:
  # Headless: a gRPC client sees every pod and spreads its calls; behind one address it would stay with one pod.
  clusterIP: None
  selector: {{- include "freshrank.selector" $scope | nindent 4 }}
  ports:
    - {name: http, port: 8080, targetPort: http}
    {{- range $port, $number := $workload.ports }}
    - {name: {{ $port }}, port: {{ $number | int }}, targetPort: {{ $port }}, appProtocol: kubernetes.io/h2c}
    {{- end }}
{{- with include "freshrank.disruption" $scope }}
---
{{ . }}
{{- end }}
{{- with include "freshrank.autoscaling" $scope }}
---
{{ . }}
{{- end }}
{{- end -}}

{{/* The container's own variables, on top of the shared ones. Takes (dict "root" $ "workload" merged "tls" parts). */}}
{{- define "freshrank.env" -}}
{{- $service := .workload.service -}}
{{- $prefix := printf "FRESHRANK_%s" (upper $service) -}}
{{- $fullname := include "freshrank.fullname" .root -}}
{{- include "freshrank.secretEnv" (dict "root" .root "secrets" .workload.secrets) }}
{{- range $setting, $value := .workload.settings }}
{{- /* Numbers of a values file are floats to helm: as text 2000000 would become 2e+06, as JSON it stays. */}}
- {name: {{ $prefix }}_{{ upper $setting }}, value: {{ kindIs "string" $value | ternary $value (toJson $value) | quote }}}
{{- end }}
{{- if .workload.stableNames }}
- name: {{ $prefix }}_INSTANCE
  valueFrom:
    fieldRef: {fieldPath: metadata.name}
{{- end }}
{{- if eq $service "gateway" }}
- {name: {{ $prefix }}_HOST, value: 0.0.0.0}
- {name: {{ $prefix }}_PORT, value: {{ .workload.ports.grpc | int | quote }}}
- {name: {{ $prefix }}_ADMIN_PORT, value: {{ .workload.ports.admin | int | quote }}}
- {name: {{ $prefix }}_TABLE_DIR, value: /tmp/table}
- {name: {{ $prefix }}_TRITON, value: "dns:///{{ $fullname }}-triton:8001"}
{{- end }}
{{- if eq $service "publisher" }}
- name: {{ $prefix }}_IDENTITY
  valueFrom:
    fieldRef: {fieldPath: metadata.name}
- name: {{ $prefix }}_NAMESPACE
  valueFrom:
    fieldRef: {fieldPath: metadata.namespace}
- {name: {{ $prefix }}_LEADERSHIP, value: lease}
- {name: {{ $prefix }}_LEASE, value: {{ printf "%s-publisher-%s" $fullname .workload.arm }}}
- {name: {{ $prefix }}_TRITON, value: "kubernetes:$({{ $prefix }}_NAMESPACE)/{{ $fullname }}-triton:8001"}
{{- if and .root.Values.gpu.enabled .root.Values.triton.gpu }}
- {name: {{ $prefix }}_INSTANCE_KIND, value: KIND_GPU}
{{- end }}
{{- end }}
{{- include "freshrank.tlsEnv" (dict "root" .root "tls" .tls "serves" $service) }}
{{- with .workload.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}
