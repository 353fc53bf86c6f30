{{/* A name that is cut ends with a hash: two long names stay two. */}}
{{- define "celery.name" -}}
{{- $name := printf "%s-%s" .root.Release.Name .part -}}
{{- if gt (len $name) 63 -}}
{{- $name = printf "%s-%s" (trunc 54 $name | trimSuffix "-") (sha256sum $name | trunc 8) -}}
{{- end -}}
{{- $name -}}
{{- end }}

{{- define "celery.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end }}

{{- define "celery.labels" -}}
{{ include "celery.selector" . }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "celery.app" -}}
{{- required "app is not set: the Celery application, as for `celery --app`" .Values.app -}}
{{- end }}

{{/* What every pod has: nothing that a task does not need. `own`: the values of this worker or process. */}}
{{- define "celery.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- $values := .root.Values }}
{{- $own := default (dict) .own }}
{{- range $key := list "nodeSelector" "tolerations" "affinity" }}
{{- with default (index $values $key) (index $own $key) }}
{{ $key }}: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
volumes:
  - name: tmp
    emptyDir: {}
{{- end }}

{{/* What every container has. `secret`: where the URL is; `last`: what no value of the user changes. */}}
{{- define "celery.container" -}}
image: {{ printf "%s:%s" (required "image.repository is not set" .root.Values.image.repository) .root.Values.image.tag | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
env:
  - name: DATABASE_URL
    valueFrom:
      secretKeyRef:
        {{- if .secret.name }}
        name: {{ .secret.name | quote }}
        key: {{ .secret.key | quote }}
        {{- else }}
        name: {{ required "database.secret.name is not set: a secret with the URL of the database" .root.Values.database.secret.name | quote }}
        key: {{ .root.Values.database.secret.key | quote }}
        {{- end }}
  {{- range $name, $value := default (dict) .variables }}
  - name: {{ $name }}
    value: {{ $value | quote }}
  {{- end }}
  {{- with .root.Values.env }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- range $name, $value := default (dict) .last }}
  - name: {{ $name }}
    value: {{ $value | quote }}
  {{- end }}
{{- with concat .root.Values.envFrom (default (list) .envFrom) }}
envFrom: {{- toYaml . | nindent 2 }}
{{- end }}
volumeMounts:
  - name: tmp
    mountPath: /tmp
{{- with .resources }}
resources: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* By these the worker learns what the probe and Prometheus expect: the first two are for the application of
     examples/deployment and for that of this repository. */}}
{{- define "celery.variables" -}}
READY_FILE: {{ .Values.readyFile | quote }}
CELERY_WORKER_FILE: {{ .Values.readyFile | quote }}
CELERY_METRICS_ADDR: "0.0.0.0"
CELERY_METRICS_PORT: {{ .Values.metrics.port | quote }}
{{- end }}

{{/* One of two pods is left when a node goes. */}}
{{- define "celery.spread" -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "celery.selector" . | nindent 8 }}
{{- end }}
