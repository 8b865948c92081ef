{{/* A Deployment and its Service. Takes (dict "root" $ "name" service "workload" merged). */}}
{{- define "freshrank.workload" -}}
{{- $scope := dict "root" .root "component" .name -}}
{{- $fullname := include "freshrank.fullname" .root -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ $fullname }}-{{ .name }}
  labels: {{- include "freshrank.labels" $scope | nindent 4 }}
spec:
  replicas: {{ .workload.replicas | int }}
  strategy: {type: {{ .workload.strategy }}}
  selector:
    matchLabels: {{- include "freshrank.selector" $scope | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "freshrank.labels" $scope | nindent 8 }}
        {{- with .workload.podLabels }}{{ toYaml . | nindent 8 }}{{ end }}
      annotations:
        checksum/settings: {{ include "freshrank.settings" .root | sha256sum }}
        {{- with .workload.podAnnotations }}{{ toYaml . | nindent 8 }}{{ end }}
    spec:
      {{- include "freshrank.podBase" .root | nindent 6 }}
      terminationGracePeriodSeconds: {{ .workload.terminationGracePeriodSeconds | int64 }}
      {{- with include "freshrank.placement" . | trim }}{{ . | nindent 6 }}{{ end }}
      containers:
        - name: {{ .name }}
          image: {{ include "freshrank.serviceImage" $scope }}
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          command: [python, -m, services.{{ .name }}]
          securityContext: {{- include "freshrank.containerSecurity" . | nindent 12 }}
          envFrom:
            - configMapRef: {name: {{ $fullname }}-settings}
          {{- with include "freshrank.env" . | trim }}
          env: {{- . | nindent 12 }}
          {{- end }}
          ports:
            - {name: http, containerPort: 8080}
            {{- range $port, $number := .workload.ports }}
            - {name: {{ $port }}, containerPort: {{ $number }}}
            {{- end }}
          startupProbe:
            httpGet: {path: /livez, port: http}
            periodSeconds: 2
            failureThreshold: 60
          livenessProbe:
            httpGet: {path: /livez, port: http}
            periodSeconds: 10
          readinessProbe:
            {{- if eq .workload.readiness "grpc" }}
            grpc: {port: {{ .workload.ports.grpc }}}
            {{- else }}
            httpGet: {path: /readyz, port: http}
            {{- end }}
            periodSeconds: 5
          {{- with .workload.preStopSeconds }}
          lifecycle:
            preStop:
              sleep: {seconds: {{ . | int64 }}}
          {{- end }}
          resources: {{- include "freshrank.resources" . | nindent 12 }}
          volumeMounts: {{- include "freshrank.mounts" (dict "root" .root "store" .workload.store) | nindent 12 }}
      volumes: {{- include "freshrank.volumes" (dict "root" .root "store" .workload.store) | nindent 8 }}
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
    {{- range $port, $number := .workload.ports }}
    - {name: {{ $port }}, port: {{ $number }}, targetPort: {{ $port }}, appProtocol: kubernetes.io/h2c}
    {{- end }}
{{- end -}}

{{/* The container's own variables, on top of the shared ones. */}}
{{- define "freshrank.env" -}}
{{- $prefix := printf "FRESHRANK_%s" (upper .name) -}}
{{- include "freshrank.secretEnv" (dict "root" .root "secrets" .workload.secrets) }}
{{- range $setting, $value := .workload.settings }}
{{- /* Numbers of a values file are floats to helm: as text 2000000 would become 2e+06, as JSON it stays. */}}
- {name: {{ $prefix }}_{{ upper $setting }}, value: {{ kindIs "string" $value | ternary $value (toJson $value) | quote }}}
{{- end }}
{{- if eq .name "gateway" }}
- {name: {{ $prefix }}_HOST, value: 0.0.0.0}
- {name: {{ $prefix }}_PORT, value: {{ .workload.ports.grpc | quote }}}
- {name: {{ $prefix }}_ADMIN_PORT, value: {{ .workload.ports.admin | quote }}}
- {name: {{ $prefix }}_TABLE_DIR, value: /tmp/table}
- {name: {{ $prefix }}_TRITON, value: "dns:///{{ include "freshrank.fullname" .root }}-triton:8001"}
{{- end }}
{{- if eq .name "publisher" }}
- {name: {{ $prefix }}_TRITON, value: {{ include "freshrank.tritonPods" .root | quote }}}
{{- end }}
{{- with .workload.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}
